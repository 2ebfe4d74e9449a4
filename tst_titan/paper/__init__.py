"""The paper's published numbers (arXiv 2605.06546), as data frames with named units.

``runs.csv`` holds tables 1 to 3, one row a run; ``sweeps.csv`` holds tables 4 to 28, one row a cell. The
files give accuracies in percent (runs) and as fractions (sweeps); the accessors give percent everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd

from tst_titan.errors import UserError

SOURCE = "Peng, Gigant, Quesnelle: Efficient Pre-Training with Token Superposition, arXiv 2605.06546"
SOURCE_SHORT = "arXiv 2605.06546"

SEVEN_TASKS: tuple[str, ...] = (
    "arc_challenge",
    "arc_easy",
    "boolq",
    "hellaswag",
    "openbookqa",
    "piqa",
    "winogrande",
)
"""The tasks that the paper averages over (figures 5 and 11); MMLU stands apart."""

ACCURACIES: tuple[str, ...] = (*SEVEN_TASKS, "mmlu")
LOSS_TABLES: tuple[int, ...] = (4, 5, 6, 7)
ACCURACY_TABLES: tuple[int, ...] = tuple(range(8, 29))

MUTUAL_INFORMATION_LAW: dict[str, float] = {"offset": 3.63, "scale": 1.35, "exponent": -1.25}
"""Figure 10: I(d) = offset + scale * d ** exponent, d the distance of two tokens."""


@dataclass(frozen=True)
class ModelFacts:
    """What the paper says about a model, and its parameters counted with both embedding matrices.

    Attributes:
        parameters: all weights, embedding and LM head counted separately (untied).
        active_parameters: those that process one latent (all of them in a dense model).
        latents_per_step: global batch in latents.
        counted: False where the shape is our choice because the paper does not give it.
    """

    name: str
    parameters: float
    active_parameters: float
    latents_per_step: int
    counted: bool = True


MODELS: dict[str, ModelFacts] = {
    "270M": ModelFacts("270M", 253.95e6, 253.95e6, 2**21),
    "600M": ModelFacts("600M", 560.89e6, 560.89e6, 2**21),
    "3B": ModelFacts("3B", 3.3378e9, 3.3378e9, 2**21),
    "10B-A1B": ModelFacts("10B-A1B", 9.751e9, 1.257e9, 2**23, counted=False),
}


FIGURES = (1, *range(3, 12))
"""Figures with results; 2 is a drawing of the method."""

EXPERIMENTS: tuple[str, ...] = (
    *(f"table_{number}" for number in (1, 2, 3, *LOSS_TABLES, *ACCURACY_TABLES)),
    *(f"figure_{number}" for number in FIGURES),
)
"""What an experiment of ours can repeat."""


@lru_cache(maxsize=1)
def _runs() -> pd.DataFrame:
    frame = pd.read_csv(Path(__file__).with_name("runs.csv"), dtype={"table": str})
    for column in ("bag_tokens", "total_tokens", "b200_hours", "final_loss", *ACCURACIES):
        frame[column] = frame[column].astype(float)
    frame["average_accuracy"] = frame[list(SEVEN_TASKS)].mean(axis=1, skipna=False)
    frame["source"] = [
        f"{SOURCE_SHORT}, {'tables 1 and 3' if table == '1+3' else 'table ' + table}"
        for table in frame["table"]
    ]
    return frame


@lru_cache(maxsize=1)
def _sweeps() -> pd.DataFrame:
    frame = pd.read_csv(Path(__file__).with_name("sweeps.csv"))
    is_loss = frame["metric"] == "loss"
    frame["value"] = frame["value"].where(is_loss, 100 * frame["value"])
    frame["unit"] = is_loss.map({True: "nats/token", False: "%"})
    frame["source"] = [f"{SOURCE_SHORT}, table {table}" for table in frame["table"]]
    return frame


def published_runs(model: str | None = None, variant: str | None = None) -> pd.DataFrame:
    """Tables 1 to 3, one row a run.

    Columns: table, model, architecture, variant, bag_steps, total_steps, bag_size, bag_tokens, total_tokens,
    b200_hours, final_loss (nats/token), one column a task (0-shot accuracy in %), average_accuracy (mean of
    the seven tasks, NaN where one is missing), source.
    """
    frame = _runs()
    frame = _select(frame, "model", model)
    return _select(frame, "variant", variant).reset_index(drop=True)


def published_sweeps(
    table: int | None = None,
    model: str | None = None,
    total_steps: int | None = None,
    bag_weighting: str | None = None,
    metric: str | None = None,
) -> pd.DataFrame:
    """Tables 4 to 28, one row a cell; each argument keeps the rows that have that value.

    Columns: table, model, total_steps, bag_weighting, metric, bag_size, bag_step_ratio, value, unit, source.
    ``value`` is nats/token for metric "loss" and percent for the accuracies. At ratio 1.0 the loss is the bag
    loss, which no token loss may be compared with; bag size 1 is the baseline.

    Raises:
        UserError: a value that the published sweeps do not hold.
    """
    frame = _sweeps()
    wanted = {
        "table": table,
        "model": model,
        "total_steps": total_steps,
        "bag_weighting": bag_weighting,
        "metric": metric,
    }
    for column, value in wanted.items():
        frame = _select(frame, column, value)
    return frame.reset_index(drop=True)


def average_accuracy(sweeps: pd.DataFrame) -> pd.DataFrame:
    """Mean over the seven tasks of sweep cells that have them all (figure 5).

    Args:
        sweeps: rows as ``published_sweeps`` returns them; other metrics are ignored.

    Returns:
        Columns model, total_steps, bag_weighting, bag_size, bag_step_ratio, value (percent), unit, source.
    """
    keys = ["model", "total_steps", "bag_weighting", "bag_size", "bag_step_ratio"]
    tasks = sweeps[sweeps["metric"].isin(SEVEN_TASKS)]
    grouped = tasks.groupby(keys, as_index=False).agg(
        value=("value", "mean"), n=("value", "size"), first=("table", "min"), last=("table", "max")
    )
    complete = grouped[grouped["n"] == len(SEVEN_TASKS)].reset_index(drop=True)
    complete["unit"] = "%"
    complete["source"] = [
        f"{SOURCE_SHORT}, mean of tables {first} to {last}"
        for first, last in zip(complete["first"], complete["last"], strict=True)
    ]
    return complete.drop(columns=["n", "first", "last"])


def _select(frame: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """Copy of the rows whose ``column`` is ``value``; all rows for None."""
    if value is None:
        return frame.copy()
    chosen = frame[frame[column] == value]
    if chosen.empty:
        known = ", ".join(str(item) for item in sorted(frame[column].unique()))
        raise UserError(f"the paper's numbers have no {column} '{value}'; they have: {known}")
    return chosen.copy()
