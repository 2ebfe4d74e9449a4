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
from tst_titan.compare import Results, read_results
from tst_titan.report import figures, page

PAGE = Path("results/report/index.html")
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
    def page(self) -> Path:
        """The page, absolute."""
        return self.root / PAGE

    def comparison(self, experiment: str) -> Results:
        """The comparison of an experiment."""
        return read_results(self.root / self.folders[experiment])

    def document(self) -> Any:
        """The page, parsed."""
        return lxml.html.fromstring(self.page.read_text(encoding="utf-8"))

    def section(self, experiment: str) -> Any:
        """The page's section about an experiment."""
        scale = self.comparison(experiment).scale
        return self.document().get_element_by_id(f"{scale}-{experiment}")


def figures_folder(folder: Path) -> Path:
    """Where the figures of a compare folder go."""
    return Path("results/figures", *folder.parts[-2:])


def page_arguments(folders: dict[str, Path]) -> list[str]:
    """Command line of the page."""
    arguments = ["--out", str(PAGE), "--project", "configs/demo.yaml"]
    arguments += ["--data-manifest", "results/data/packages/manifest.json"]
    for folder in folders.values():
        arguments += ["--experiment", f"{folder}:{figures_folder(folder)}"]
    return arguments


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
            assert figures.main(["--comparison", str(folder), "--out", str(figures_folder(folder))]) == 0
        assert page.main(page_arguments(folders)) == 0
    yield Site(root, folders)
