"""Mutual information of token pairs against their distance, with the fitted power law (figure 10)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tst_titan.errors import UserError
from tst_titan.report.panels import Panel, save_panel
from tst_titan.report.read import read_json
from tst_titan.report.style import INK, MUTED, SERIES

_NEEDED = ("distances", "plug_in", "corrected", "fit")


def read_mutual_information(path: Path) -> dict[str, Any]:
    """The file that tst_titan.data.mutual_information writes.

    Raises:
        UserError: it is missing, lacks a key, or its lists differ in length.
    """
    found = read_json(path, "estimate the mutual information first")
    for key in _NEEDED:
        if key not in found:
            raise UserError(f"{path}: key '{key}' is missing; found: {', '.join(sorted(found))}")
    for key in ("plug_in", "corrected"):
        if len(found[key]) != len(found["distances"]):
            raise UserError(
                f"{path}: '{key}' has {len(found[key])} entries for {len(found['distances'])} distances"
            )
    return found


def draw_mutual_information(path: Path, folder: Path) -> Panel:
    """Points and law over distances on a logarithmic axis; the paper's law beside it, as the paper's.

    Raises:
        UserError: as ``read_mutual_information``.
    """
    found = read_mutual_information(path)
    distances = np.array(found["distances"], dtype=float)
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    axes.plot(distances, found["plug_in"], "s", color=SERIES[1], markerfacecolor="none", markersize=3.5,
              label="plug-in estimate")  # fmt: skip
    axes.plot(distances, found["corrected"], "o", color=SERIES[0], markersize=4, label="bias-corrected")
    x = np.geomspace(distances.min(), distances.max(), 200)
    axes.plot(x, _law(x, found["fit"]), color=INK, label=f"fit: {_formula(found['fit'])}")
    theirs = _paper_law(found.get("paper"))
    if theirs is not None:
        axes.plot(x, _law(x, theirs), color=MUTED, linestyle="--", label=f"the paper's: {_formula(theirs)}")
    axes.set_xscale("log")
    axes.set_xlabel("Distance d, tokens")
    axes.set_ylabel("Mutual information, nats")
    axes.legend(loc="upper right")
    made = save_panel(
        figure, folder, "mutual_information", "Mutual information against distance",
        "Mutual information of the tokens at the two ends of a distance, estimated from the token shards: the plug-in "
        "estimate, which is too high for small samples, and the bias-corrected one; the power law is fitted to the "
        "latter. The paper's law is of its own corpus and tokenizer.",
        f"Points over distances {distances.min():g} to {distances.max():g}: corrected mutual information from "
        f"{found['corrected'][0]:.3f} to {found['corrected'][-1]:.3f}; fitted law {_formula(found['fit'])}.",
        data=pd.DataFrame({key: found[key] for key in ("distances", "plug_in", "corrected")}),
    )  # fmt: skip
    plt.close(figure)
    return made


def _law(distance: np.ndarray, fit: dict[str, float]) -> np.ndarray:
    """C0 + a d^k at every distance."""
    return fit["c0"] + fit["a"] * distance ** fit["k"]


def _formula(fit: dict[str, float]) -> str:
    return f"{fit['c0']:.3g} + {fit['a']:.3g} · d^{fit['k']:.3g}"


def _paper_law(paper: Any) -> dict[str, float] | None:
    """The paper's constants, whether by the short or the long names."""
    if not isinstance(paper, dict):
        return None
    names = {"c0": ("c0", "offset"), "a": ("a", "scale"), "k": ("k", "exponent")}
    law = {key: next((paper[n] for n in known if n in paper), None) for key, known in names.items()}
    if any(value is None for value in law.values()):
        return None
    return {key: float(value) for key, value in law.items() if value is not None}
