"""Every number that commit 6d325f6 computed from finished runs comes out again, for every experiment."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import lzma
import math
import tarfile
from pathlib import Path

import pytest
from numbers_of import COLUMNS, HERE, KEY, NUMBERS, Row, panel_rows, rows_of, table_rows

from tests.shipped import shipped_root
from tst_titan.cli import main
from tst_titan.compare import ComparisonSpec, compare, write_results
from tst_titan.compare.render import make_spec
from tst_titan.config.load import parse, read_yaml
from tst_titan.report import figures
from tst_titan.tree.project import Project


def differences(found: Row, wanted: dict[str, str]) -> list[str]:
    """In which columns two rows differ."""
    wrong = []
    for column in COLUMNS:
        ours, theirs = found[column], wanted[column]
        if column in NUMBERS:
            pair = [None if number in ("", None) else float(number) for number in (ours, theirs)]
            same = pair[0] == pair[1] or (None not in pair and math.isclose(*pair, rel_tol=1e-12))  # type: ignore[arg-type]
        else:
            same = ("" if ours is None else str(ours)) == theirs
        if not same:
            wrong.append(f"{[found[key] for key in KEY]}: {column} is {ours!r}, was {theirs!r}")
    return wrong


def old_spec(path: Path) -> ComparisonSpec:
    """A spec.yaml that 6d325f6 wrote."""
    content = read_yaml(path)
    content["paper"] = content["paper"] and content["paper"]["experiment"]
    return parse(ComparisonSpec, content, path)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the unpacked results, compared again."""
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(HERE / "results.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    with contextlib.chdir(folder):
        for spec in sorted(Path().glob("results/compare/*/*/spec.yaml")):
            results = compare(old_spec(spec))
            write_results(results, spec.parent)
            for table in results.facts.tables:
                out = Path("results/tables", *spec.parts[-3:-2], table)
                arguments = [
                    "report",
                    "table",
                    str(spec.with_name("comparison.json")),
                    table,
                    "--out",
                    str(out),
                ]
                assert main(arguments) == 0
        (statistics,) = Path().glob("results/data/*/statistics/mutual_information.json")
        figures.draw_corpus_statistics(
            statistics, Path("results/figures/smoke/figure_10"), "figure_10", "smoke"
        )
    return folder


@functools.cache
def golden() -> list[dict[str, str]]:
    """The rows of numbers.csv.xz."""
    return list(csv.DictReader(io.StringIO(lzma.decompress((HERE / "numbers.csv.xz").read_bytes()).decode())))


@pytest.mark.parametrize("experiment", sorted({row["experiment"] for row in golden()}))
def test_every_number_is_the_one_that_it_was(root: Path, experiment: str) -> None:
    scale, name = experiment.split("/")
    wanted = {tuple(row[key] for key in KEY): row for row in golden() if row["experiment"] == experiment}
    rows = {
        "table": lambda: table_rows(root / f"results/tables/{scale}/{name}.csv"),
        "panel": lambda: panel_rows(root / f"results/figures/{scale}/{name}/figures.json"),
    }.get(next(iter(wanted.values()))["part"], lambda: rows_of(root / f"results/compare/{scale}/{name}"))()
    found = {tuple(str(row[key]) for key in KEY): row for row in rows}
    assert sorted(found) == sorted(wanted)
    wrong = [text for key, row in found.items() for text in differences(row, wanted[key])]
    assert not wrong, "\n".join(wrong[:20])


def test_every_experiment_asks_for_the_same_comparison(root: Path) -> None:
    specs = sorted(root.glob("results/compare/*/*/spec.yaml"))
    assert len(specs) == 19
    for path in specs:
        scale, name = path.parts[-3:-1]
        project = Project.open(shipped_root(), {"scale": scale, "experiments": [name]})
        spec = make_spec(project, project.experiment(name))
        assert spec.question  # which 6d325f6 did not write
        assert spec.model_copy(update={"question": ""}) == old_spec(path), name
