"""Draw the figures of one experiment and list them in figures.json."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from tst_titan.compare.drawing import Panel, write_panels
from tst_titan.compare.drawing.style import styled
from tst_titan.compare.kinds import kind_named
from tst_titan.compare.kinds.corpus_statistics import draw_mutual_information
from tst_titan.compare.results import read_results
from tst_titan.errors import UserError
from tst_titan.report.draw_curves import draw_curves
from tst_titan.report.draw_experts import draw_experts
from tst_titan.report.draw_results import draw_accuracy, draw_final_loss, draw_seeds


def draw(
    source: Path,
    folder: Path,
    token_phase_only: bool = False,
    experiment: str | None = None,
    scale: str | None = None,
) -> list[Panel]:
    """Draw what there is to draw from a comparison or from a corpus's statistics.

    Args:
        source: comparison.json or the folder that holds it, or mutual_information.json of a corpus.
        token_phase_only: leave the bag phases out of a comparison's loss curves.
        experiment, scale: whose figures those of a corpus are.

    Raises:
        UserError: the source cannot be read, or the figures of a corpus belong to nothing.
    """
    mpl.use("agg")
    if source.name == "comparison.json" or source.is_dir():
        return draw_experiment(source, folder, token_phase_only)
    if experiment is None or scale is None:
        raise UserError(
            f"{source}: is no comparison.json; say whose figures these are: --experiment, --scale"
        )
    return draw_corpus_statistics(source, folder, experiment, scale)


def draw_experiment(comparison: Path, folder: Path, token_phase_only: bool = False) -> list[Panel]:
    """All panels of an experiment, the ones that answer its question first.

    Args:
        comparison: comparison.json, or the folder that holds it.
        folder: where the files go; figures.json is written last.
        token_phase_only: leave the bag phases out of the loss curves.

    Raises:
        UserError: the comparison cannot be read.
    """
    experiment = read_results(comparison)
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
    write_panels(folder, experiment.name, experiment.scale, experiment.folder / "comparison.json", panels)
    return panels


def draw_corpus_statistics(source: Path, folder: Path, name: str, scale: str) -> list[Panel]:
    """The mutual-information figure, which needs no training; ``name`` and ``scale`` go into figures.json.

    Raises:
        UserError: the file cannot be read.
    """
    with styled():
        panel = draw_mutual_information(source, folder)
    write_panels(folder, name, scale, source, [panel])
    return [panel]
