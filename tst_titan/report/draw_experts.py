"""Load of a mixture's experts over the steps of every run, from the metrics files of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tst_titan.compare import drawing
from tst_titan.compare.drawing import Panel
from tst_titan.compare.drawing.style import INK, format_axis
from tst_titan.compare.results import Results, RunFacts
from tst_titan.files import read_objects

_MOST_RUNS = 4
_MOST_COLUMNS = 240


@dataclass(frozen=True)
class Load:
    """Expert load of one run.

    Attributes:
        steps: shape (rows,), logged steps.
        shares: shape (rows, layers, experts), share of a layer's choices that each expert received.
        switches: last steps of bag phases.
    """

    steps: np.ndarray
    shares: np.ndarray
    switches: tuple[int, ...]


def draw_experts(experiment: Results, folder: Path) -> Panel | None:
    """Heat maps of experts over steps, one column a run, rows for the first, middle and last layer.

    None where no run logged an expert load. Only the first runs are drawn where there are many.
    """
    loads = {
        run.name: load
        for run in experiment.runs
        if (load := _read(run)) is not None
    }  # fmt: skip
    shown = dict(list(loads.items())[:_MOST_RUNS])
    if not shown:
        return None
    depth = min(load.shares.shape[1] for load in shown.values())
    layers = sorted({0, depth // 2, depth - 1})
    largest = max(float(load.shares.max()) for load in shown.values())
    figure, places = plt.subplots(
        len(layers), len(shown), figsize=(max(7.2, 2.6 * len(shown)), 0.8 + 1.6 * len(layers)), squeeze=False,
        sharex="col", sharey=True,
    )  # fmt: skip
    for column, (name, load) in enumerate(shown.items()):
        for row, layer in enumerate(layers):
            axes = places[row][column]
            image = axes.pcolormesh(
                load.steps, np.arange(load.shares.shape[2]), load.shares[:, layer, :].T, cmap="cividis", vmin=0.0,
                vmax=largest, shading="nearest", rasterized=True,
            )  # fmt: skip
            for switch in load.switches:
                axes.axvline(switch, color="#fffffd", linewidth=0.9, linestyle=":")
            axes.grid(False)
            if column == 0:
                axes.set_ylabel(f"Layer {layer}: expert")
            if row == 0:
                axes.set_title(experiment.run_named[name].label, color=INK)
        format_axis(places[-1][column], "step")
        places[-1][column].set_xlabel("Optimizer steps")
    even = ", ".join(dict.fromkeys(f"1/{load.shares.shape[2]}" for load in shown.values()))
    figure.colorbar(image, ax=places, label=f"Share of the layer's choices (even: {even})", shrink=0.8)
    left_out = len(loads) - len(shown)
    return drawing.finish(
        figure, folder, "expert_load", "Expert load",
        "Share of a layer's routing choices that each expert received, over the steps; the dotted line is the switch "
        f"from bags to tokens. Layers {', '.join(str(layer) for layer in layers)} of {depth}."
        + (f" {left_out} more runs are not drawn." if left_out else ""),
        f"Heat maps of expert load over steps for {', '.join(experiment.run_named[name].label for name in shown)}; the "
        f"largest share of one expert is {largest:.3f}, an even share is {even}.",
        _data(shown, layers),
    )  # fmt: skip


def _read(run: RunFacts) -> Load | None:
    """Expert load of a run, thinned; None where its metrics hold none."""
    rows = [row for stage in run.stages for row in _rows(Path(stage.metrics))]
    if not rows:
        return None
    kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _MOST_COLUMNS)).round().astype(int))
    switches = tuple(stage.end_step for stage in run.stages if stage.phase == "bag")
    return Load(
        np.array([rows[i][0] for i in kept]), np.array([rows[i][1] for i in kept], dtype=float), switches
    )


def _rows(path: Path) -> Iterator[tuple[int, list[list[float]]]]:
    """Step and load of every line that has one; a dense model's file is left after its first line."""
    for _, found in read_objects(path):
        if found.get("expert_load") is None:
            return
        yield found["step"], found["expert_load"]


def _data(loads: dict[str, Load], layers: list[int]) -> pd.DataFrame:
    """One row a run, layer and step, one column an expert."""
    parts = []
    for name, load in loads.items():
        for layer in layers:
            part = pd.DataFrame(load.shares[:, layer, :]).add_prefix("expert_")
            part.insert(0, "step", load.steps)
            parts.append(part.assign(run=name, layer=layer))
    return pd.concat(parts, ignore_index=True).set_index(["run", "layer", "step"]).reset_index()
