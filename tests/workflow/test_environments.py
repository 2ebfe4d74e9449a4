"""The pins resolve on every Python; the environments made of them have what is needed; `make` sets one up."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envs import lock
from tests.workflow.project import REPOSITORY
from tst_titan.cli import COMMANDS

# What the launcher of the rule `train` starts.
STARTED = {"tst_titan.run.launch": ["tst_titan.titan.train", "tst_titan.run.tracking"]}


def _rules():
    """(rule, name of its environment, modules that it runs) of every rule that runs the package."""
    for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        for text in path.read_text().split("\nrule ")[1:]:
            modules = re.findall(r"-m (tst_titan[\w.]*)", text)
            modules += [COMMANDS[name].module for name in re.findall(r"-m tst_titan\.cli ([\w-]+)", text)]
            named = re.search(r'conda:\n +"../../envs/(\w+).yaml"', text)
            if modules:
                yield text.split(":")[0], named and named.group(1), modules


def _imports(module: str, seen: set[str], rooms: tuple[str, ...]) -> set[str]:
    """Names of the packages outside the project that a module imports, with what it imports of the project.

    Imports inside functions count in the room of the rule's own module: a rule on documents calls none of the functions
    with which a config builds its model.
    """
    if module in seen:
        return set()
    seen.add(module)
    place = REPOSITORY / module.replace(".", "/")
    files = [place.with_suffix(".py"), place / "__init__.py", place / "__main__.py"]
    found = set()
    names = []
    nodes = (
        node
        for path in files
        if path.is_file()
        for node in _nodes(ast.parse(path.read_text(encoding="utf8")), inside=module.startswith(rooms))
    )
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        if not name.startswith("tst_titan"):
            found.add(name.split(".")[0])
        else:
            found |= _imports(name, seen, rooms)
    return found - set(sys.stdlib_module_names)


def _nodes(tree: ast.AST, inside: bool) -> Iterator[ast.AST]:
    """The statements that run when a module is imported and, ``inside``, those of its functions."""
    for node in ast.iter_child_nodes(tree):
        typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not typing and (inside or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield node
            yield from _nodes(node, inside)


def _resolved(text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Resolve requirements from the index's metadata, as on Linux; nothing of the result is downloaded."""
    fixed = ["--python", sys.executable, "--python-platform", "linux", "--no-header", "--no-annotate"]
    return lock.uv("pip", "compile", "-", *fixed, *options, source=text)


@pytest.mark.slow
@pytest.mark.parametrize("python", lock.PYTHONS)
def test_the_pins_resolve_against_the_index(python):
    """PyTorch there is the CUDA build, which needs more than a CPU wheel that may lie on this machine."""
    done = _resolved(lock.PINS.read_text(), "--python-version", python)
    if done.returncode and _resolved("packaging", "--no-cache").returncode:
        message = f"no package index can be reached: {done.stderr[-300:]}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    assert done.returncode == 0, done.stderr
    resolved = {line for line in done.stdout.splitlines() if not re.match("#|nvidia-|cuda-", line)}
    assert any(line.startswith("nvidia-cublas==") for line in done.stdout.splitlines())
    wanted = [Requirement(line) for lines, _ in lock.pins().values() for line in lines]
    here = {"python_version": python, "python_full_version": f"{python}.0"}
    assert resolved == {
        f"{pin.name}{pin.specifier}" for pin in wanted if not pin.marker or pin.marker.evaluate(here)
    }


def test_the_files_are_what_the_pins_give():
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "envs/lock.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("rule", "kind", "modules"), _rules(), ids=[rule for rule, _, _ in _rules()])
def test_a_rule_has_an_environment_with_what_it_imports(rule, kind, modules):
    assert kind, f"rule {rule} names no environment"
    content = yaml.safe_load((REPOSITORY / f"envs/{kind}.yaml").read_text())
    pins = {canonicalize_name(Requirement(line).name) for line in content["dependencies"][-1]["pip"]}
    distributions = packages_distributions()
    needed: set[str] = set()
    seen: set[str] = set()
    started = [*modules, *(module for name in modules for module in STARTED.get(name, []))]
    rooms = tuple(f"{module.rpartition('.')[0]}." for module in started if module.count(".") > 1)
    for module in started:
        needed |= _imports(module, seen, rooms)
    missing = {
        name for name in needed if not {canonicalize_name(d) for d in distributions.get(name, [])} & pins
    }
    assert not missing, f"envs/{kind}.yaml lacks {missing}"


def _setup(folder, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """What `make setup` would do, or says, in a folder without an environment."""
    environment = os.environ | ({"PATH": path} if path else {})
    for name in ("MAKEFLAGS", "MAKELEVEL", "PYTHON", "TORCH"):
        environment.pop(name, None)
    return subprocess.run(
        [shutil.which("make") or "make", *arguments, "setup"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def copied(tmp_path):
    """A folder with the files that the images' recipes copy: both must hold what `make setup` needs."""
    copies = re.findall(r"^COPY (.+) \S+$", (REPOSITORY / "envs/Dockerfile").read_text(), re.M)
    files = re.search(r"%files\n(.+?)\n\n", (REPOSITORY / "envs/tst-titan.def").read_text(), re.S)
    assert files
    in_apptainer = [name for line in files[1].splitlines() for name in line.split()[:-1]]
    assert sorted(name for line in copies for name in line.split()) == sorted(in_apptainer)
    for name in in_apptainer:
        source = REPOSITORY / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    return tmp_path


def test_setup_takes_the_pins_of_either_build(copied):
    done = _setup(copied, "-n")
    assert done.returncode == 0, done.stderr
    assert "-r envs/requirements.txt" in done.stdout and "extra-index-url" not in done.stdout
    done = _setup(copied, "-n", "TORCH=cpu")
    assert "-r envs/requirements.txt --extra-index-url https://download.pytorch.org/whl/cpu" in done.stdout
    done = _setup(copied, "TORCH=rocm")
    assert done.returncode and "TORCH=rocm: valid are cuda" in done.stderr


def _fake_python(folder, name: str, version: str | None) -> None:
    """A Python of that version that can make environments, or a shim with nothing behind it."""
    text = "exit 127"
    if version:
        text = f'exec {sys.executable} -c "import sys; sys.version_info = ({version})\n$2"'
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_setup_takes_the_newest_python_that_works(copied, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "nproc", "rm", "touch"):
        (tools / name).symlink_to(str(shutil.which(name)))
    done = _setup(copied, path=str(tools))
    assert done.returncode and "there is no Python 3.11 to 3.13 with venv here: install" in done.stderr
    _fake_python(tools, "python3.13", None)
    _fake_python(tools, "python3.12", "3, 12")
    _fake_python(tools, "python3.11", "3, 11")
    assert "\npython3.12 -m venv" in _setup(copied, "-n", path=str(tools)).stdout
    _fake_python(tools, "python3.10", "3, 10")
    done = _setup(copied, "PYTHON=python3.10", path=str(tools))
    assert done.returncode and "PYTHON=python3.10 is not Python 3.11 to 3.13" in done.stderr
