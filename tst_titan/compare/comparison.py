"""The comparison of one experiment: everything that its figure, table and verdict are made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tst_titan.compare.curves import smooth, thin
from tst_titan.compare.grids import Grid, make_grids
from tst_titan.compare.groups import SeedResult, family_of, over_seeds, references_of
from tst_titan.compare.measured import Measured
from tst_titan.compare.pairs import Pair, compare_pair
from tst_titan.compare.runs import FileCache, RunData, load_run
from tst_titan.compare.spec import ComparisonSpec
from tst_titan.compare.sweeps import Sweep, make_sweeps
from tst_titan.compare.table import gaps, run_table, table_text
from tst_titan.compare.transfer import Worth, make_transfer
from tst_titan.compare.verdict import Sentence, make_verdict
from tst_titan.files import write_atomically

FORMAT = 1
SWEEP_AXES = {"lr_sweep": "lr", "data_bound": "epochs"}
_MANY_RUNS = 24
_POINTS_FEW, _POINTS_MANY = 1000, 100
_CURVE_HEAD = ["run", "label", "role", "seed", "group"]


@dataclass(frozen=True)
class Comparison:
    """Everything that is known about one experiment's runs.

    Attributes:
        table: see ``tst_titan.compare.table.run_table``.
        curves: all curves, thinned: run, label, role, seed, group, the columns of
            ``tst_titan.compare.curves`` and ``smoothed``.
    """

    spec: ComparisonSpec
    runs: list[RunData]
    pairs: list[Pair]
    seeds: list[SeedResult]
    grids: list[Grid]
    sweeps: list[Sweep]
    transfer: list[Worth]
    verdict: list[Sentence]
    table: pd.DataFrame
    curves: pd.DataFrame

    def to_mapping(self) -> dict[str, Any]:
        """Plain types, as written to comparison.json."""
        spec = self.spec
        return {
            "format": FORMAT,
            "experiment": spec.experiment,
            "scale": spec.scale,
            "kind": spec.kind,
            "title": spec.title,
            "caveat": spec.caveat,
            "paper": None if spec.paper is None else spec.paper.experiment,
            "tables": {name: table.model_dump() for name, table in spec.tables.items()},
            "options": spec.options.model_dump(mode="json"),
            "runs": [_run_mapping(run) for run in self.runs],
            "pairs": [_pair_mapping(pair) for pair in self.pairs],
            "seeds": _plain(self.seeds),
            "grids": _plain(self.grids),
            "sweeps": _plain(self.sweeps),
            "transfer": _plain(self.transfer),
            "verdict": _plain(self.verdict),
            "gaps": gaps(self.runs),
            "files": {"table": "table.csv", "curves": "curves.csv"},
        }

    def text(self) -> str:
        """Table and verdict for the terminal."""
        title = self.spec.title or self.spec.experiment
        lines = [f"{title} (scale {self.spec.scale})", "", table_text(self.table), ""]
        return "\n".join(lines + [f"* {sentence.text}" for sentence in self.verdict])


def compare(spec: ComparisonSpec) -> Comparison:
    """Read the runs of an experiment and compare them.

    Raises:
        UserError: a run's files are missing or malformed, do not continue each other, or were made with
            another config than the one beside them.
    """
    cache = FileCache()
    options = spec.options
    runs = [load_run(run, options, cache) for run in spec.runs]
    chosen = [(other, run) for run in runs for other in references_of(run, runs, spec.kind)]
    with_curves = spec.kind != "grid"
    pairs = [compare_pair(a, b, family_of(a, runs), options, with_curves) for a, b in chosen]
    seeds = over_seeds(chosen, runs, spec.kind, options)
    grids = make_grids(runs, options, spec.metrics) if spec.kind == "grid" else []
    axis = SWEEP_AXES.get(spec.kind)
    sweeps = make_sweeps(runs, axis, options) if axis else []
    transfer = make_transfer(runs, options) if spec.kind == "transfer" else []
    verdict = make_verdict(spec, runs, pairs, seeds, grids, sweeps, transfer)
    return Comparison(
        spec, runs, pairs, seeds, grids, sweeps, transfer, verdict, run_table(runs), all_curves(runs, spec)
    )


def all_curves(runs: Sequence[RunData], spec: ComparisonSpec) -> pd.DataFrame:
    """The curves of all runs below each other, smoothed and then thinned."""
    points = spec.options.curve_points
    if points is None:
        points = _POINTS_FEW if len(runs) <= _MANY_RUNS else _POINTS_MANY
    parts = []
    for run in runs:
        curve = run.curve.assign(smoothed=smooth(run.curve, spec.options.smoothing_window))
        parts.append(
            thin(curve, points).assign(
                run=run.name,
                label=run.spec.label,
                role=run.spec.role,
                seed=run.spec.seed,
                group=run.spec.group,
            )
        )
    together = pd.concat(parts, ignore_index=True)
    columns = [name for name in together.columns if name not in _CURVE_HEAD]
    return together[_CURVE_HEAD + columns]


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write table.csv, curves.csv and, last, comparison.json; each appears whole or not at all."""
    write_atomically(folder / "table.csv", comparison.table.to_csv(index=False))
    write_atomically(folder / "curves.csv", comparison.curves.to_csv(index=False, float_format="%.8g"))
    text = json.dumps(comparison.to_mapping(), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(folder / "comparison.json", text + "\n")


def _run_mapping(run: RunData) -> dict[str, Any]:
    """One run for comparison.json."""
    stages = [
        {
            "directory": stage.directory,
            "manifest": stage.manifest_path,
            "metrics": stage.metrics_path,
            "phase": stage.phase,
            "bag_size": stage.bag_size,
            "start_step": stage.start_step,
            "end_step": stage.end_step,
        }
        for stage in run.stages
    ]
    return {
        "name": run.name,
        "label": run.spec.label,
        "role": run.spec.role,
        "seed": run.spec.seed,
        "group": run.spec.group,
        "axes": dict(run.spec.axes),
        "bag_sizes": run.bag_sizes,
        "bag_loss_only": not run.final.comparable,
        "manifest": run.manifest,
        "stages": stages,
        "metrics": _plain(run.metrics),
        "published": _plain(run.published),
    }


def _pair_mapping(pair: Pair) -> dict[str, Any]:
    """One pair for comparison.json; the switch's numbers get the files they were read from."""
    made = _plain(pair)
    sources = list(made.pop("switch_sources"))
    if pair.switch is not None:
        switch, units = pair.switch, {"steps_to_recover": "steps", "recovered_step": "steps"}
        numbers: dict[str, Any] = {"step": switch.step}
        names = ("first_loss", "height_over_reference", "height_over_own_end", "recovered_step")
        for name in (*names, "steps_to_recover"):
            value = getattr(switch, name)
            reason = None if value is not None else _no_switch_number(name, switch.reference_ends)
            unit = units.get(name, "nats/token")
            number = Measured(value, unit, tuple(sources), method="smoothed curves", reason=reason)
            numbers[name] = number.to_mapping()
        made["switch"] = numbers
    return made


def _no_switch_number(name: str, reference_ends: int | None) -> str:
    """Why a number of the switch does not exist."""
    if reference_ends is None:
        return "the reference has no token loss at these steps"
    if name == "height_over_reference":
        return "the reference has no token loss at the switch"
    return f"not met again up to step {reference_ends}, where the reference's curve ends"


def _plain(value: Any) -> Any:
    """Dataclasses to dictionaries, numbers of the comparison to theirs."""
    if isinstance(value, Measured):
        return value.to_mapping()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
