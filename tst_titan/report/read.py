"""What the report reads besides comparisons: a figures folder; and how a page links to files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tst_titan.compare.results import Results as Experiment
from tst_titan.compare.results import check_format
from tst_titan.compare.results import read_results as read_experiment
from tst_titan.errors import UserError
from tst_titan.files import read_object

__all__ = ["FIGURES_FORMAT", "Experiment", "read_experiment", "read_figures", "relative_link"]

FIGURES_FORMAT = 1


def read_figures(folder: Path) -> dict[str, Any]:
    """Read figures.json of a figures folder.

    Raises:
        UserError: it is missing, of another format, or names a file that does not exist.
    """
    path = folder / "figures.json"
    content = read_object(path, "draw the figures first")
    check_format(content, path, FIGURES_FORMAT)
    for panel in content["panels"]:
        for kind in ("svg", "pdf", "csv"):
            name = panel[kind]
            if name is not None and not (folder / name).is_file():
                raise UserError(f"{path}: names {name}, which does not exist; draw the figures again")
    return content


def relative_link(target: Path | str, page: Path) -> str:
    """Link from ``page`` to a file, with forward slashes, valid wherever the results folder is moved to."""
    return Path(os.path.relpath(target, page.parent)).as_posix()
