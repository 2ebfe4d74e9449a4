"""The demo's DAG at scale smoke, run once for all test processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.workflow.project import ProjectCopy


@dataclass(frozen=True)
class Finished:
    """A project on which the default target was run.

    Attributes:
        project: for the one module that goes on working in it.
        results: a copy of its results, which nobody changes.
    """

    project: ProjectCopy
    results: Path

    def give(self, project: ProjectCopy, *parts: str) -> None:
        """Copy folders of the results into another project, with their times."""
        for part in parts:
            shutil.copytree(
                self.results / part, project.folder / "results" / part, copy_function=shutil.copy2
            )


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    # The shells of the rules see the space.
    found = Finished(ProjectCopy(root / "finished/a project"), root / "finished/results")
    with (root / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.results.exists():
            project = ProjectCopy.make(found.project.folder)
            project.run()
            half = found.results.with_name("half")
            shutil.copytree(project.folder / "results", half, copy_function=shutil.copy2)
            half.rename(found.results)
    return found
