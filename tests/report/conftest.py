"""One built report for the tests that only look at it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lxml.html
import pytest

from tests.report import experiments, stages
from tst_titan.cli import main
from tst_titan.compare import Results, read_results

REPORT = Path("results/report")
HOSTILE = "TST </script><b>bold</b> & co"


@dataclass(frozen=True)
class Site:
    """A folder with results, figures and the page.

    Attributes:
        root: working folder; every path in comparison.json is relative to it.
        folders: compare folder by experiment, relative to ``root``.
    """

    root: Path
    folders: dict[str, Path]

    @property
    def index(self) -> Path:
        """The index over all pages, absolute."""
        return self.root / REPORT / "index.html"

    def page(self, experiment: str) -> Path:
        """An experiment's page, absolute."""
        return self.root / page_of(self.folders[experiment])

    def comparison(self, experiment: str) -> Results:
        """The comparison of an experiment."""
        return read_results(self.root / self.folders[experiment])

    def document(self, experiment: str) -> Any:
        """An experiment's page, parsed."""
        return lxml.html.fromstring(self.page(experiment).read_text(encoding="utf-8"))


def figures_folder(folder: Path) -> Path:
    """Where the figures of a compare folder go."""
    return Path("results/figures", *folder.parts[-2:])


def page_of(folder: Path) -> Path:
    """Where the page of a compare folder goes."""
    return REPORT / folder.parts[-2] / f"{folder.name}.html"


def page_arguments(folder: Path) -> list[str]:
    """Command line of a page."""
    arguments = ["report", "page", str(figures_folder(folder)), "--out", str(page_of(folder))]
    return [*arguments, "--project", "configs/demo.yaml", "--data", "results/data/packages/manifest.json"]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Pair, grid, mixture of experts and a pair at a scale that means nothing, through the command lines."""
    root = tmp_path_factory.mktemp("report")
    with contextlib.chdir(root):
        results = Path("results")
        stages.write_data_manifest(results / "data" / "packages")
        Path("configs").mkdir()
        Path("configs/demo.yaml").write_text("scale: cpu\nexperiments: [figure_3]\n")
        folders = {}
        for make in (experiments.pair, experiments.grid, experiments.moe, experiments.smoke):
            spec = make(results)
            if make is experiments.smoke:
                spec["runs"][0]["label"] = HOSTILE
            folder = experiments.build(results, spec)
            folders[spec["experiment"]] = folder
            comparison = str(folder / "comparison.json")
            assert main(["report", "figures", comparison, "--out", str(figures_folder(folder))]) == 0
            assert main(page_arguments(folder)) == 0
        pages = [str(page_of(folder)) for folder in folders.values()]
        index = ["--figures", "results/figures", "--out", str(REPORT / "index.html")]
        assert main(["report", "index", *pages, *index]) == 0
    yield Site(root, folders)
