"""The conda environments of the rules: what requirements.txt pins, and all that the rules' modules import."""

import ast
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.utils import canonicalize_name

from tests.workflow.project import REPOSITORY

ENTRIES = {
    "data": ["tst_titan.data.steps"],
    "train": ["tst_titan.cli", "tst_titan.titan.train"],
    "evaluate": [
        "tst_titan.titan.export",
        "tst_titan.evaluate.heldout",
        "tst_titan.evaluate.tasks",
        "tst_titan.evaluate.local_task",
        "tst_titan.evaluate.fetch",
    ],
    "report": ["tst_titan.compare.__main__", "tst_titan.report.figures", "tst_titan.report.page"],
}


def _imports(module: str, seen: set[str]) -> set[str]:
    """Names of the packages outside the project that a module imports, with what it imports of the project."""
    if module in seen:
        return set()
    seen.add(module)
    path = REPOSITORY / (module.replace(".", "/") + ".py")
    if not path.is_file():
        path = REPOSITORY / module.replace(".", "/") / "__init__.py"
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


@pytest.mark.parametrize("kind", ENTRIES)
def test_an_environment_has_what_its_rules_import(kind):
    content = yaml.safe_load((REPOSITORY / f"envs/{kind}.yaml").read_text())
    pins = {canonicalize_name(line.partition("==")[0]) for line in content["dependencies"][-1]["pip"]}
    distributions = packages_distributions()
    needed = set()
    for entry in ENTRIES[kind]:
        needed |= _imports(entry, set())
    missing = {
        name for name in needed if not {canonicalize_name(d) for d in distributions.get(name, [])} & pins
    }
    assert not missing, f"envs/{kind}.yaml lacks {missing}"


def test_every_rule_that_runs_the_package_names_its_environment():
    for path in sorted((REPOSITORY / "workflow/rules").glob("*.smk")):
        for rule in path.read_text().split("\nrule ")[1:]:
            if '"python' in rule or "exec python" in rule:
                assert "    conda:\n" in rule, f"{path.name}: rule {rule.split(':')[0]}"
