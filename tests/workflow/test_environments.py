"""The conda environments of the rules: what requirements.txt pins, and all that the rules' modules import."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.workflow.project import REPOSITORY

# What the launcher of the rule `train` starts.
STARTED = {"tst_titan.cli": ["tst_titan.titan.train", "tst_titan.run.tracking"]}


def _rules():
    """(rule, name of its environment, modules that it runs) of every rule that runs the package."""
    for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        for text in path.read_text().split("\nrule ")[1:]:
            modules = re.findall(r"-m (tst_titan[\w.]*)", text)
            named = re.search(r'conda:\n +"../../envs/(\w+).yaml"', text)
            if modules:
                yield text.split(":")[0], named and named.group(1), modules


def _imports(module: str, seen: set[str]) -> set[str]:
    """Names of the packages outside the project that a module imports, with what it imports of the project."""
    if module in seen:
        return set()
    seen.add(module)
    path = REPOSITORY / (module.replace(".", "/") + ".py")
    if not path.is_file():
        path = REPOSITORY / module.replace(".", "/") / "__main__.py"
    found = set()
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        if not name.startswith("tst_titan"):
            found.add(name.split(".")[0])
        elif (REPOSITORY / (name.replace(".", "/") + ".py")).is_file():
            found |= _imports(name, seen)
    return found - set(sys.stdlib_module_names)


def test_the_files_are_what_the_pins_give():
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "envs/conda.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("rule", "kind", "modules"), _rules(), ids=[rule for rule, _, _ in _rules()])
def test_a_rule_has_an_environment_with_what_it_imports(rule, kind, modules):
    assert kind, f"rule {rule} names no environment"
    content = yaml.safe_load((REPOSITORY / f"envs/{kind}.yaml").read_text())
    pins = {canonicalize_name(line.partition("==")[0]) for line in content["dependencies"][-1]["pip"]}
    distributions = packages_distributions()
    needed: set[str] = set()
    seen: set[str] = set()
    for module in [*modules, *(started for name in modules for started in STARTED.get(name, []))]:
        needed |= _imports(module, seen)
    missing = {
        name for name in needed if not {canonicalize_name(d) for d in distributions.get(name, [])} & pins
    }
    assert not missing, f"envs/{kind}.yaml lacks {missing}"
