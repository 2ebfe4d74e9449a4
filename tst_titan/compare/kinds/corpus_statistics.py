"""Mutual information of token pairs against their distance, with the fitted power law (figure 10); no runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tst_titan.compare.kinds import Kind
from tst_titan.errors import UserError
from tst_titan.files import read_object
from tst_titan.paper import MUTUAL_INFORMATION_LAW
from tst_titan.text import amount

if TYPE_CHECKING:
    from tst_titan.compare.drawing import Panel

KIND = Kind()
_NEEDED = ("corpus", "estimator", "table", "shuffled", "fits", "unit", "tokens_sampled", "vocab_size")
_PAPER = {"c0": "offset", "a": "scale", "k": "exponent"}


def read_mutual_information(path: Path) -> dict[str, Any]:
    """The file that ``tst_titan.data.mutual_information.write_statistics`` writes.

    Raises:
        UserError: it is missing, or lacks a key or the fit of its estimator.
    """
    found = read_object(path, "measure the mutual information first")
    for key in _NEEDED:
        if key not in found:
            raise UserError(f"{path}: key '{key}' is missing; found: {', '.join(sorted(found))}")
    if found["estimator"] not in found["fits"]:
        raise UserError(
            f"{path}: fits has no '{found['estimator']}'; found: {', '.join(sorted(found['fits']))}"
        )
    if not found["table"]:
        raise UserError(f"{path}: table is empty; it must hold one row a distance")
    return found


def draw_mutual_information(path: Path, folder: Path) -> Panel:
    """Points and law over distances on a logarithmic axis; the paper's law beside it, as the paper's.

    Raises:
        UserError: as ``read_mutual_information``.
    """
    from tst_titan.compare import drawing as d

    found = read_mutual_information(path)
    estimator = found["estimator"]
    title = estimator.capitalize()
    table = pd.DataFrame(found["table"])
    distances = table["distance"].to_numpy(float)
    fit = found["fits"][estimator]
    theirs = {key: MUTUAL_INFORMATION_LAW[name] for key, name in _PAPER.items()}
    left_over = found["shuffled"][estimator]
    figure, ((axes,),) = d.figure_of(1, 1, row_height=4.2, base=0.0)
    axes.plot(distances, table["plug_in"], "^", color=d.style.SERIES[1], markerfacecolor="none", markersize=3.5,
              label="plug-in estimate")  # fmt: skip
    axes.plot(
        distances, table[estimator], "o", color=d.style.SERIES[0], markersize=3.5, label=f"{title} estimate"
    )
    x = np.geomspace(distances.min(), distances.max(), 200)
    axes.plot(x, _law(x, fit), color=d.style.INK, linewidth=1.2, label=f"fit: {_formula(fit)}")
    axes.plot(
        x, _law(x, theirs), color=d.style.MUTED, linestyle="--", label=f"the paper's: {_formula(theirs)}"
    )
    axes.axhline(
        left_over,
        color=d.style.SERIES[0],
        linewidth=0.9,
        linestyle=":",
        label=f"{title}, shuffled pairs (truth: 0)",
    )
    axes.set_xscale("log")
    axes.set_xlabel("Distance d, tokens")
    axes.set_ylabel(f"Mutual information, {found['unit']}")
    figure.legend(loc="outside lower left", ncols=2)
    size = f"{amount(found['tokens_sampled'])} tokens, vocabulary {found['vocab_size']:,}"
    return d.finish(
        figure, folder, "mutual_information", "Mutual information against distance",
        f"Mutual information of two tokens d apart in corpus {found['corpus']} ({size}). The plug-in estimate is too "
        f"high for small samples; the {title} "
        f"estimate corrects for that, and what it still shows for shuffled pairs ({left_over:.3f}) is the bias left in "
        "it. The power law is fitted to it. The paper's law is of its own corpus and tokenizer: its size need not "
        f"agree, its shape should. {verdict(found)[1]}",
        f"Points over distances {distances.min():g} to {distances.max():g}: {estimator} estimate from "
        f"{table[estimator].iloc[0]:.3f} to {table[estimator].iloc[-1]:.3f} {found['unit']}; fitted law "
        f"{_formula(fit)}; the paper's {_formula(theirs)}.",
        table,
    )  # fmt: skip


def verdict(found: dict[str, Any]) -> tuple[bool, str]:
    """Whether information falls with distance as the paper's does, by the exponents and the fit's error; in words."""
    fit, k = found["fits"][found["estimator"]], MUTUAL_INFORMATION_LAW["exponent"]
    gap, error = fit["k"] - k, fit["k_stderr"]
    text = (
        f"Ours falls as d^({fit['k']:.2f}), the paper's as d^({k:.2f}); "
        f"the fit leaves {fit['rms_residual']:.3f} nats a point. The exponents differ by {gap:+.2f}, "
    )
    if abs(gap) <= 2 * error:
        return True, f"{text}within two of the fit's standard errors ({error:.2f}): reproduced."
    return (
        False,
        f"{text}more than two of the fit's standard errors ({error:.2f}): a power law too, with another exponent.",
    )


def _law(distance: np.ndarray, fit: dict[str, float]) -> np.ndarray:
    """c0 + a d^k at every distance."""
    return fit["c0"] + fit["a"] * distance ** fit["k"]


def _formula(fit: dict[str, float]) -> str:
    return f"{fit['c0']:.3g} + {fit['a']:.3g} d^({fit['k']:.3g})"
