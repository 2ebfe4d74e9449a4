"""Draw the figures of one experiment: ``python -m tst_titan.report.figures --help``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from tst_titan.compare.kinds import kind_named
from tst_titan.compare.kinds.corpus_statistics import draw_mutual_information
from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.files import write_atomically
from tst_titan.report.draw_curves import draw_curves
from tst_titan.report.draw_experts import draw_experts
from tst_titan.report.draw_results import draw_accuracy, draw_final_loss, draw_seeds
from tst_titan.report.panels import Panel
from tst_titan.report.read import FIGURES_FORMAT, read_experiment
from tst_titan.report.style import styled


def draw_experiment(comparison: Path, folder: Path, token_phase_only: bool = False) -> list[Panel]:
    """All panels of an experiment, the ones that answer its question first.

    Args:
        comparison: comparison.json, or the folder that holds it.
        folder: where the files go; figures.json is written last.
        token_phase_only: leave the bag phases out of the loss curves.

    Raises:
        UserError: the comparison cannot be read.
    """
    experiment = read_experiment(comparison)
    with styled():
        kind = kind_named(experiment.facts.kind)
        made: list[Panel | None] = [*kind.draw(experiment, folder)]
        if kind.pairwise:
            made.append(draw_final_loss(experiment, folder))
        made.append(draw_seeds(experiment, folder))
        made.append(draw_accuracy(experiment, folder))
        made += draw_curves(experiment, folder, token_phase_only)
        made.append(draw_experts(experiment, folder))
    panels = [panel for panel in made if panel is not None]
    _write_index(folder, experiment.name, experiment.scale, comparison, panels)
    return panels


def draw_corpus_statistics(
    source: Path, folder: Path, name: str = "figure_10", scale: str = ""
) -> list[Panel]:
    """The mutual-information figure, which needs no training; ``name`` and ``scale`` go into figures.json.

    Raises:
        UserError: the file cannot be read.
    """
    with styled():
        panel = draw_mutual_information(source, folder)
    _write_index(folder, name, scale, source, [panel])
    return [panel]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 2 for a mistake of the user's."""
    parser = argparse.ArgumentParser(description="Draw the figures of one experiment as SVG and PDF.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--comparison", type=Path, help="comparison.json, or the folder that holds it")
    source.add_argument("--mutual-information", type=Path, help="JSON of tst_titan.data.mutual_information")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures and figures.json")
    parser.add_argument("--name", default="figure_10", help="experiment that --mutual-information belongs to")
    parser.add_argument("--scale", default="", help="scale that --mutual-information belongs to")
    parser.add_argument("--token-phase-only", action="store_true", help="leave bag phases out of loss curves")
    arguments = parser.parse_args(argv)
    mpl.use("agg")
    try:
        if arguments.comparison is not None:
            panels = draw_experiment(arguments.comparison, arguments.out, arguments.token_phase_only)
        else:
            panels = draw_corpus_statistics(
                arguments.mutual_information, arguments.out, arguments.name, arguments.scale
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    print(f"{arguments.out}: {len(panels)} figures ({', '.join(panel.name for panel in panels)})")
    return 0


def _write_index(folder: Path, experiment: str, scale: str, source: Path, panels: Sequence[Panel]) -> None:
    content = {
        "format": FIGURES_FORMAT,
        "experiment": experiment,
        "scale": scale,
        "source": source.as_posix(),
        "panels": [panel.to_mapping() for panel in panels],
    }
    write_atomically(folder / "figures.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
