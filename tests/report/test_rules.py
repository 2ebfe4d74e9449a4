"""The rules draw figures and page, redraw what an edit touches and nothing else, and feed Snakemake's own report."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.report import experiments, stages
from tests.shipped import copy_configs
from tst_titan.compare import read_results
from tst_titan.data.mutual_information import Row, fit_power_law

REPOSITORY = Path(__file__).parents[2]
REPORT = REPOSITORY / "tst_titan" / "report"
COMPARE = REPOSITORY / "tst_titan" / "compare"
TEXT = REPOSITORY / "tst_titan" / "text.py"
SNAKEFILE = """
configfile: "configs/demo.yaml"
include: "workflow/rules/common.smk"
include: "workflow/rules/report.smk"
localrules: all
rule all:
    default_target: True
    input: f"{RESULTS}/report/index.html"
"""
PAIR = "title: A pair\nshows: Nothing.\nkind: pair\nruns:\n  baseline: {}\n  tst: {bags: [{}]}\n"
STATISTICS = "title: Statistics\nshows: Nothing.\nkind: corpus_statistics\n"


def snakemake(root: Path, *arguments: str) -> str:
    """Output of a Snakemake call in ``root``; fails the test if it fails."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment |= {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(root / "cache")}
    command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(root: Path) -> set[str]:
    """Rules that a dry run would run."""
    return set(re.findall(r"^(?:local)?rule (\w+):", snakemake(root, "--dry-run"), flags=re.MULTILINE)) - {
        "all"
    }


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's code and configs in which everything before the report is made already."""
    root = tmp_path_factory.mktemp("repository")
    copy_configs(root)
    for name in ("tst_titan", "workflow", "envs"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "Snakefile").write_text(SNAKEFILE)
    (root / "configs/experiments/a_pair.yaml").write_text(PAIR)
    (root / "configs/experiments/a_statistic.yaml").write_text(STATISTICS)
    (root / "configs/demo.yaml").write_text("scale: smoke\nexperiments: [a_pair, a_statistic]\n")
    corpus = re.search(r"corpus: (\w+)", (root / "configs/scales/smoke.yaml").read_text())
    assert corpus is not None
    with contextlib.chdir(root):
        data = Path("results/data") / corpus.group(1)
        stages.write_data_manifest(data)
        (data / "statistics").mkdir()
        (data / "statistics/mutual_information.json").write_text(json.dumps(statistics()))
        spec = experiments.smoke(Path("results")) | {"experiment": "a_pair"}
        experiments.build(Path("results"), spec)
    return root


def statistics() -> dict[str, object]:
    """A mutual-information file."""
    rows = [Row(d, 9_000, 900, 1.6 + 2 / d, 1.4 + 2 / d, 1.2 + 2 / d) for d in range(1, 31)]
    return {
        "format": 1, "corpus": "smoke", "vocab_size": 1024, "tokens_sampled": 3_000_000, "unit": "nats",
        "estimator": "grassberger", "table": [asdict(row) for row in rows], "shuffled": asdict(rows[-1]),
        "fits": {"grassberger": asdict(fit_power_law(rows))},
    }  # fmt: skip


@pytest.mark.slow
def test_rules_build_redraw_what_an_edit_touches_and_fill_snakemakes_report(repository: Path) -> None:
    printed = snakemake(repository)
    index = (repository / "results/report/index.html").read_text()
    assert 'href="smoke/a_pair.html"' in index and 'href="smoke/a_statistic.html"' in index
    for name in ("a_pair", "a_statistic"):
        text = (repository / f"results/report/smoke/{name}.html").read_text()
        assert "configs/demo.yaml" in text and "too_short" in text and str(repository) not in text
    assert (repository / "results/figures/smoke/a_pair/loss_steps.pdf").is_file()
    assert (repository / "results/figures/smoke/a_statistic/mutual_information.svg").is_file()
    comparison = read_results(repository / "results/compare/smoke/a_pair")
    last = printed[printed.index(f"{comparison.title} (scale smoke)") :]
    assert comparison.facts.caveat and comparison.facts.caveat in last
    assert "Report: results/report/smoke/a_pair.html" in last.splitlines()
    dry = snakemake(repository, "--dry-run")
    assert "Nothing to be done" in dry and "Report:" not in dry

    snakemake(repository, "--report", "snakemake-report.html")
    report = (repository / "snakemake-report.html").read_text()
    assert "loss_steps.svg" in report and "mutual_information.svg" in report
    for caption in ("Training loss of every run against data tokens", "Mutual information of two tokens against",
                    "The page of experiment a_pair at scale smoke", "Experiment a_pair at scale smoke"):  # fmt: skip
        assert caption in report

    edits: list[tuple[str, set[str]]] = [
        ("tst_titan/report/page.css", {"page", "report"}),
        ("tst_titan/report/draw_results.py", {"figures", "page", "report"}),
        ("tst_titan/text.py", {"figures", "page", "report"}),
        ("tst_titan/compare/kinds/pair.py", {"figures", "page", "report"}),
        ("tst_titan/report/terminal.py", set()),
    ]
    for name, rules in edits:
        path = repository / name
        before, times = path.read_bytes(), path.stat()
        path.write_bytes(before + (b"\n# \n" if path.suffix == ".py" else b"\n"))
        assert planned(repository) == rules, name
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def imports_of(path: Path) -> set[Path]:
    """Modules of the report and tst_titan.text that a module imports, directly or through another; itself too."""
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        names = [
            name
            for node in ast.walk(ast.parse(module.read_text()))
            if isinstance(node, ast.ImportFrom) and node.module
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        ]
        files = {REPOSITORY / f"{name.replace('.', '/')}.py" for name in names}
        waiting += [file for file in files if file == TEXT or (file.parent == REPORT and file.is_file())]
    return found


@pytest.mark.parametrize(
    ("modules", "variable", "beside"),
    [
        (["figures.py"], "FIGURE_CODE", set()),
        (["page.py", "published_table.py"], "PAGE_CODE",
         {"chart.js", "page.css", *(path.name for path in REPORT.glob("*.html"))}),
    ],
)  # fmt: skip
def test_rules_list_every_module_that_they_draw_with(
    modules: list[str], variable: str, beside: set[str]
) -> None:
    rules = (REPOSITORY / "workflow/rules/report.smk").read_text()
    code = rules[rules.index("def report_code") : rules.index("FIGURES =")]
    names: dict[str, Any] = {"ROOT": REPOSITORY}
    exec(code, names)
    listed = {Path(path).resolve() for path in names[variable]}
    imported = {path for module in modules for path in imports_of(REPORT / module)} - set(
        COMPARE.rglob("*.py")
    )
    assert listed == imported | {REPORT / name for name in beside} | set(COMPARE.rglob("*.py"))


def test_the_report_needs_neither_torch_nor_snakemake() -> None:
    script = (
        "import sys; import tst_titan.report.command, tst_titan.report.figures, tst_titan.report.page;"
        "import tst_titan.report.terminal;"
        "found = [name for name in ('torch', 'torchtitan', 'snakemake', 'datatrove') if name in sys.modules];"
        "sys.exit(str(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
