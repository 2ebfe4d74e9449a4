"""Plain sentences: who is ahead, by how much, whether the noise allows to say so, and what to beware of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tst_titan.compare.equal_loss import EqualLoss
from tst_titan.compare.grids import Grid
from tst_titan.compare.groups import SeedResult
from tst_titan.compare.measured import Measured
from tst_titan.compare.pairs import AtBudget, Pair, Scored
from tst_titan.compare.reproduction import (
    Naming,
    grid_reproduction,
    pair_reproduction,
    speedup_reproduction,
)
from tst_titan.compare.runs import RunData
from tst_titan.compare.spec import ComparisonSpec
from tst_titan.compare.sweeps import Sweep
from tst_titan.compare.table import scaled
from tst_titan.compare.transfer import Worth

Kind = Literal["caveat", "result", "reproduction", "noise", "warning", "gap"]
_PAIRWISE = ("pair", "seeds", "curriculum", "feeding")
_REPEATS = 1.001
_MANY_CELLS = 4
_MANY_RUNS = 8
_METRIC_WORDS = {
    "final_loss": "final loss",
    "heldout_nats_per_token": "held-out loss",
    "heldout_bits_per_byte": "held-out bits per byte",
    "average_accuracy": "average accuracy",
}


@dataclass(frozen=True)
class Sentence:
    """One sentence of the verdict and what sort of statement it is."""

    kind: Kind
    text: str


def make_verdict(
    spec: ComparisonSpec,
    runs: Sequence[RunData],
    pairs: Sequence[Pair],
    seeds: Sequence[SeedResult],
    grids: Sequence[Grid],
    sweeps: Sequence[Sweep],
    transfer: Sequence[Worth],
) -> list[Sentence]:
    """All sentences, in the order in which a reader wants them; none twice."""
    naming = Naming(runs)
    found: list[Sentence] = []
    if spec.caveat:
        found.append(Sentence("caveat", spec.caveat))
    if spec.kind in _PAIRWISE:
        by_run: dict[str, list[Pair]] = {}
        for pair in _one_per_labels(pairs, runs):
            by_run.setdefault(pair.run, []).append(pair)
        for part in by_run.values():
            texts = _pair_results(part, naming, spec.options.equal_tolerance)
            found += [Sentence("result", text) for text in texts]
    found += [Sentence("noise", text) for text in _seed_sentences(seeds)]
    found += [Sentence("result", text) for grid in grids for text in _grid_results(grid)]
    found += [sentence for sweep in sweeps for sentence in _sweep_sentences(sweep)]
    found += [Sentence("result", text) for text in _transfer_results(transfer, naming)]
    found += [Sentence("reproduction", text) for text in _reproduction(spec, runs, pairs, grids, naming)]
    found += [Sentence("warning", text) for text in _warnings(runs, naming)]
    found += [Sentence("gap", text) for text in (*_empty_grids(grids), *_gaps(runs))]
    return list(dict.fromkeys(found))


def amount(number: Measured, digits: int = 4) -> str:
    """Value, unit and interval, e.g. "0.0700 nats/token (0.0610 to 0.0790)"."""
    text = f"{number.number:.{digits}f} {number.unit}".rstrip()
    if number.low is not None and number.high is not None:
        text += f" ({number.low:.{digits}f} to {number.high:.{digits}f})"
    return text


def _one_per_labels(pairs: Sequence[Pair], runs: Sequence[RunData]) -> list[Pair]:
    """The first pair of every two labels: the other seeds are in the sentence about seeds."""
    known = {run.name: run for run in runs}
    chosen: dict[tuple[object, ...], Pair] = {}
    for pair in pairs:
        run, reference = known[pair.run], known[pair.reference]
        chosen.setdefault((pair.group, run.model, reference.spec.label, run.spec.label), pair)
    return list(chosen.values())


def _pair_results(pairs: Sequence[Pair], naming: Naming, tolerance: float) -> Iterator[str]:
    """What the pairs of one run show: each budget with the reference that fits it best."""
    by_flops = min(pairs, key=lambda pair: abs(pair.equal_flops.ratio - 1))
    by_data = min(pairs, key=lambda pair: abs(pair.equal_data.ratio - 1))
    run = naming.of(by_flops.run)
    yield from _budget(by_flops.equal_flops, "FLOPs", run, naming.of(by_flops.reference), tolerance)
    if by_data is not by_flops or abs(by_data.equal_data.ratio - by_flops.equal_flops.ratio) > 1e-9:
        yield from _budget(by_data.equal_data, "data", run, naming.of(by_data.reference), tolerance)
    for pair in pairs:
        reference = naming.of(pair.reference)
        if pair.equal_loss is not None:
            yield _equal_loss(pair.equal_loss, run, reference)
        reached = pair.run_reaches_reference
        if reached is not None and reached.status == "reached" and reached.at["steps"].exists:
            steps, times = reached.at["steps"], reached.speedup["steps"]
            yield (
                f"{run} passes the final loss of {reference} ({reached.target_loss.number:.4f}) after "
                f"{steps.number:,.0f} steps{_between(steps)}: a speed-up of at least {times.number:.2f} times."
            )
        ratio = pair.equal_flops.ratio
        if abs(ratio - 1) > tolerance:
            reference += f" (of {ratio:.2f} times the FLOPs)"
        yield from _scored(pair.heldout, "Held out", run, reference, 4)
        yield from _scored(pair.accuracy, "Average accuracy over the seven tasks", run, reference, 1)
    if by_flops.switch is not None:
        yield _switch(by_flops, run, naming.of(by_flops.reference))


def _budget(found: AtBudget, what: str, run: str, reference: str, tolerance: float) -> Iterator[str]:
    """Who is ahead at equal FLOPs or equal data."""
    if found.difference.value is None:
        return
    if found.fair and abs(found.ratio - 1) > tolerance:
        reference = "baselines interpolated to its length"
    gap = found.difference
    side = "below" if gap.number < 0 else "above"
    noise = "outside the noise of the logged loss"
    if found.winner == "undecided":
        noise = "within the noise of the logged loss" if found.fair else "which decides nothing"
    if gap.low is None:
        noise = "too few logged steps to know the noise"
    interval = ""
    if gap.low is not None and gap.high is not None:
        interval = f" (difference {gap.low:+.4f} to {gap.high:+.4f})"
    text = (
        f"At equal {what} {run} ends {abs(gap.number):.4f} nats/token {side} {reference}: "
        f"{found.run_loss.number:.4f} against {found.reference_loss.number:.4f}{interval}, {noise}"
    )
    yield text + ("." if found.fair else f"; {found.note}.")


def _equal_loss(found: EqualLoss, run: str, reference: str) -> str:
    """The speed-up at equal loss, or that there is none to tell."""
    times = found.speedup["steps"]
    if found.status == "reached":
        steps = found.at["steps"]
        bound = {"at_least": "at least ", "at_most": "at most ", None: ""}[found.bound]
        hours = found.speedup["hours"]
        clock = f" and {bound}{hours.number:.2f} times in training hours" if hours.exists else ""
        return (
            f"For the final loss of {run} ({found.target_loss.number:.4f}) the baseline needs {bound}"
            f"{steps.number:,.0f} steps{_between(steps)}: a speed-up of {bound}{times.number:.2f} times in "
            f"steps{_between(times, 2)}{clock}; {found.note}."
        )
    if found.bound is not None and times.exists:
        word = found.bound.replace("_", " ")
        return f"Equal loss: {found.note}; the speed-up in steps is {word} {times.number:.2f} times."
    return f"Equal loss of {run} and {reference}: {found.note}."


def _scored(found: Scored, what: str, run: str, reference: str, digits: int) -> Iterator[str]:
    """Difference of an evaluation."""
    gap = found.difference
    if gap.value is None:
        return
    side = "lower" if gap.value < 0 else "higher"
    decided = {
        "undecided": "within the noise of the scored items",
        "run": f"{run} is ahead",
        "reference": f"{reference} is ahead",
    }[found.winner or "undecided"]
    if gap.low is None:
        decided = "the error is not known"
    unit = "points" if gap.unit == "%" else gap.unit
    interval = ""
    if gap.low is not None and gap.high is not None:
        paired = ", paired by document" if found.paired else ""
        interval = f" ({gap.low:+.{digits}f} to {gap.high:+.{digits}f}{paired})"
    yield (
        f"{what}, {run} is {abs(gap.value):.{digits}f} {unit} {side} than {reference}{interval}: {decided}."
    )


def _switch(pair: Pair, run: str, reference: str) -> str:
    """Spike and recovery."""
    switch = pair.switch
    assert switch is not None
    text = f"At the switch (step {switch.step:,}) the loss of {run} jumps to {switch.first_loss:.2f}"
    if switch.height_over_reference is not None:
        text += f", {switch.height_over_reference:+.2f} nats from {reference}"
    if switch.steps_to_recover is not None:
        return f"{text}, and meets it again after {switch.steps_to_recover:,} steps."
    if switch.reference_ends is None:
        return f"{text}; there is no reference curve to recover to."
    return f"{text}, and has not met it again by step {switch.reference_ends:,}."


def _seed_sentences(seeds: Sequence[SeedResult]) -> Iterator[str]:
    """The statements over seeds, with the names in front."""
    for item in seeds:
        group = f"{item.group}: " if item.group else ""
        metric = _METRIC_WORDS.get(item.metric, item.metric)
        yield f"{group}{item.run} against {item.reference}, {metric}. {item.statement}"


def _grid_results(grid: Grid) -> Iterator[str]:
    """Best cell and how many beat the baseline."""
    if grid.metric not in _METRIC_WORDS or grid.best is None:
        return
    metric, group = _METRIC_WORDS[grid.metric], f"{grid.group}: " if grid.group else ""
    place = (grid.best.bag_size, grid.best.bag_fraction)
    best = next(cell for cell in grid.cells if (cell.bag_size, cell.bag_fraction) == place)
    known = [cell for cell in grid.cells if cell.gain.exists]
    better = [cell for cell in known if cell.gain.number > 0]
    surely = [cell for cell in better if cell.gain.low is not None and cell.gain.low > 0]
    side = "better" if best.gain.number > 0 else "worse"
    gain = f"{abs(best.gain.number):.4f} {best.gain.unit} {side} than the baseline"
    if best.gain.low is not None and best.gain.high is not None:
        gain += f" (gain {best.gain.low:+.4f} to {best.gain.high:+.4f})"
    yield (
        f"{group}The best {metric} is at s = {best.bag_size:g}, r = {best.bag_fraction:g}: "
        f"{best.value.number:.4f}, {gain}. Of {len(known)} cells {len(better)} beat the baseline, "
        f"{len(surely)} of them by more than the noise."
    )
    if len(known) >= _MANY_CELLS:
        yield f"{group}The best of {len(known)} cells is partly luck: its gain is flattered."


def _sweep_sentences(sweep: Sweep) -> Iterator[Sentence]:
    """Best point of every series; edges and gaps to the baseline."""
    group = f"{sweep.group}: " if sweep.group else ""
    axis = {"lr": "learning rate"}.get(sweep.axis, sweep.axis)
    for series in sweep.series:
        if series.best is None:
            continue
        text = f"{group}{series.name} is best at {axis} {series.best.x:g} ({amount(series.best.value)})."
        if sweep.axis == "lr":
            yield Sentence("result", text)
            if series.best_at_edge:
                edge = f"{group}the best {axis} of {series.name} is the last one tried; its optimum may lie beyond."
                yield Sentence("warning", edge)
    for gap in sweep.differences:
        if gap.difference.exists:
            text = f"{group}at {axis} {gap.x:g}, {gap.series} minus baseline: {amount(gap.difference)}."
            yield Sentence("result", text)
    for name, best in sweep.best_against_best.items():
        if best.exists and sweep.axis == "lr":
            text = f"{group}each at its own best {axis}, {name} minus baseline: {amount(best)}."
            yield Sentence("result", text)


def _transfer_results(transfer: Sequence[Worth], naming: Naming) -> Iterator[str]:
    """What a bag step is worth, run by run, and the paper's version."""
    if len(transfer) > _MANY_RUNS:
        yield from _transfer_summary(transfer, naming)
        return
    for item in transfer:
        worth = item.token_steps_per_bag_step
        where, cell = naming.of(item.run), f"s = {item.bag_size:g}, r = {item.bag_fraction:g}"
        if cell not in where:
            where += f" ({cell})"
        if worth.value is None:
            yield f"What a bag step of {where} is worth cannot be read off: {worth.reason}."
            continue
        bound = {"at_least": "at least ", "at_most": "at most ", None: ""}[item.bound]
        text = f"A bag step of {where} replaces {bound}{worth.number:.2f} token steps{_between(worth, 2)}"
        if item.published is not None:
            text += f"; from the paper's losses {item.published.number:.2f} ({item.published.method})"
        yield text + "."


def _transfer_summary(transfer: Sequence[Worth], naming: Naming) -> Iterator[str]:
    """One sentence a group where there are too many runs to name."""
    for group in dict.fromkeys(item.group for item in transfer):
        members = [item for item in transfer if item.group == group]
        known = [item for item in members if item.token_steps_per_bag_step.exists]
        head = f"{group}: " if group else ""
        if not known:
            yield f"{head}What a bag step is worth cannot be read off for any of {len(members)} runs."
            continue
        ranked = sorted(known, key=lambda item: item.token_steps_per_bag_step.number)
        low, high = ranked[0], ranked[-1]
        bounded = sum(item.bound is not None for item in known)
        yield (
            f"{head}Over {len(known)} runs a bag step replaces from "
            f"{low.token_steps_per_bag_step.number:.2f} ({naming.of(low.run)}) to "
            f"{high.token_steps_per_bag_step.number:.2f} token steps ({naming.of(high.run)}); "
            f"{bounded} of them are bounds, because the loss lies outside the baselines'."
        )


def _reproduction(
    spec: ComparisonSpec,
    runs: Sequence[RunData],
    pairs: Sequence[Pair],
    grids: Sequence[Grid],
    naming: Naming,
) -> Iterator[str]:
    """Whether the paper's direction and ordering come out."""
    said = False
    if spec.kind == "grid":
        texts = [text for grid in grids for text in grid_reproduction(grid)]
    else:
        texts = list(pair_reproduction(runs, _one_per_labels(pairs, runs), naming))
        texts += list(speedup_reproduction(runs, _one_per_labels(pairs, runs), naming))
    for text in texts:
        said = True
        yield text
    if spec.paper is not None and not said:
        name = spec.paper.experiment.replace("_", " ")
        if any(run.published for run in runs):
            yield f"What the paper's {name} shows was not measured here, or not at its bag sizes and bag fractions."
            return
        yield f"The paper gives no numbers for {name} that these runs could be held against."


def _warnings(runs: Sequence[RunData], naming: Naming) -> Iterator[str]:
    """Repeated data, partial evaluations, runs without a token phase."""
    repeats = [
        f"{naming.of(run.name)} {run.metrics['epochs'].number:.2f} epochs of "
        f"{scaled(run.metrics['unique_data_tokens'].number)} unique tokens"
        for run in runs
        if run.metrics["epochs"].number > _REPEATS
    ]
    if repeats:
        yield (
            f"Data repeats: {'; '.join(repeats)}. What a run gains by reading more is smaller with repeated "
            "than with fresh data."
        )
    limited = {task for run in runs for task in run.limited}
    if limited:
        yield f"Scored on a part of their items only: {', '.join(sorted(limited))}."
    for what, keys, consequence in (
        ("devices", ("machine", "device"), "hours cannot be compared, steps and FLOPs can"),
        ("corpora", ("data_identity",), "their losses cannot be compared"),
    ):
        for model in dict.fromkeys(run.model for run in runs):
            found = sorted({_entry(run, *keys) for run in runs if run.model == model})
            if len(found) > 1:
                names = ", ".join(name[:24] for name in found)
                yield f"Runs of one model used different {what} ({names}): {consequence}."


def _entry(run: RunData, *keys: str) -> str:
    """An entry of the last stage's manifest as text."""
    found: object = run.stages[-1].manifest
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return str(found)


def _empty_grids(grids: Sequence[Grid]) -> Iterator[str]:
    """Metrics that the experiment is about and no run has."""
    for metric in dict.fromkeys(grid.metric for grid in grids):
        values = [cell.value for grid in grids if grid.metric == metric for cell in grid.cells]
        if values and not any(value.exists for value in values):
            yield f"No {_METRIC_WORDS.get(metric, metric)} of any run: {values[0].reason}."


def _gaps(runs: Sequence[RunData]) -> Iterator[str]:
    """Held-out losses that some runs have and others lack: the table shows a gap there."""
    for name in ("heldout_nats_per_token", "average_accuracy"):
        has = [run for run in runs if run.metrics[name].exists]
        lacks = [run for run in runs if not run.metrics[name].exists]
        if has and lacks:
            who = ", ".join(run.name for run in lacks)
            yield f"No {_METRIC_WORDS[name]} for {who}: {lacks[0].metrics[name].reason}."


def _between(number: Measured, digits: int = 0) -> str:
    """The interval in brackets; an open end is said to be open."""
    if number.low is None and number.high is None:
        return ""
    low = "below what was run" if number.low is None else f"{number.low:,.{digits}f}"
    high = "beyond what was run" if number.high is None else f"{number.high:,.{digits}f}"
    return f" ({low} to {high})"
