"""Plain sentences: who is ahead, by how much, whether the noise allows to say so, and what to beware of.

They say what the table holds and compute nothing new. Those about one kind's own numbers are in its file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np

from tst_titan.compare.arithmetic import length_crossing
from tst_titan.compare.kinds import Kind
from tst_titan.compare.metrics import METRICS, Metric, metric_of
from tst_titan.compare.noise import exact
from tst_titan.compare.numbers import ON_HELDOUT, Bound, Number
from tst_titan.compare.pairs import PAIRED_BY_DOCUMENT
from tst_titan.compare.results import Results, RunFacts, Sentence, SentenceKind
from tst_titan.compare.seeds import PAIRED
from tst_titan.text import amount as count

BOUND_WORDS: dict[Bound, str] = {"at_least": "at least ", "at_most": "at most ", "": ""}
COMPARED = tuple(metric for metric in METRICS.values() if metric.tie is not None)
"""Metrics that are held against the paper's."""
_REPEATS = 1.001
_SURE = 2  # standard errors

Pair = tuple[RunFacts, RunFacts]


def make_verdict(results: Results, kind: Kind) -> list[Sentence]:
    """All sentences, in the order in which a reader wants them; none twice."""
    caveat = [results.facts.caveat] if results.facts.caveat else []
    found = said("caveat", caveat)
    if kind.pairwise:
        found += said("result", _pair_results(results))
    found += said("noise", _seed_sentences(results))
    own = list(kind.sentences(results))
    found += [sentence for sentence in own if sentence.kind != "gap"]
    found += said("reproduction", _reproduction(results, kind))
    found += said("warning", _warnings(results))
    found += [*(sentence for sentence in own if sentence.kind == "gap"), *said("gap", _gaps(results))]
    return list(dict.fromkeys(found))


def said(kind: SentenceKind, texts: Iterable[str]) -> list[Sentence]:
    """Sentences of one kind."""
    return [Sentence(kind=kind, text=text) for text in texts]


def name_of(results: Results, run: RunFacts, with_seed: bool = True) -> str:
    """Name of a run in a sentence: its label, with seed and group where the label alone is not unique."""
    twins = [other for other in results.runs if (other.group, other.label) == (run.group, run.label)]
    name = run.label
    if len({twin.model for twin in twins}) > 1:
        name = run.name
    elif len(twins) > 1 and with_seed:
        name += f", seed {run.seed}"
    return name + (f" [{run.group}]" if len(results.groups) > 1 and run.group else "")


def amount(number: Number) -> str:
    """Value, unit and interval, e.g. "0.0700 nats/token (0.0610 to 0.0790)"."""
    text = f"{number.number:.4f} {number.unit}".rstrip()
    return text + ("" if number.interval is None else f" ({_ends(number, '.4f')})")


def between(number: Number, digits: int = 0) -> str:
    """The interval in brackets; an open end is said to be open."""
    if number.low is None and number.high is None:
        return ""
    low = "below what was run" if number.low is None else f"{number.low:,.{digits}f}"
    high = "beyond what was run" if number.high is None else f"{number.high:,.{digits}f}"
    return f" ({low} to {high})"


def in_group(group: str) -> str:
    """How a sentence about a group begins."""
    return f"{group}: " if group else ""


def _ends(number: Number, form: str) -> str:
    return "" if number.interval is None else " to ".join(f"{end:{form}}" for end in number.interval)


def one_per_labels(results: Results) -> list[Pair]:
    """The first pair of every two labels: the other seeds are in the sentence about seeds."""
    chosen: dict[tuple[object, ...], Pair] = {}
    for reference, run in results.pairs():
        chosen.setdefault((run.group, run.model, reference.label, run.label), (reference, run))
    return list(chosen.values())


def _pair_results(results: Results) -> Iterator[str]:
    """What the pairs show, run by run: each budget with the reference that fits it best."""
    by_run: dict[str, list[Pair]] = {}
    for pair in one_per_labels(results):
        by_run.setdefault(pair[1].name, []).append(pair)
    tolerance = results.facts.options.equal_tolerance
    for pairs in by_run.values():
        run, who = pairs[0][1].name, name_of(results, pairs[0][1])
        names = {reference.name: name_of(results, reference) for reference, _ in pairs}

        def of(metric: str, reference: str, run: str = run) -> Number:
            found = results.get("pair", run, metric, reference)
            assert found is not None
            return found

        ratios = {
            what: {name: of(f"{what}.ratio", name).number for name in names}
            for what in ("equal_flops", "equal_data")
        }
        best = {what: min(names, key=lambda name: abs(found[name] - 1)) for what, found in ratios.items()}
        by_flops, by_data = best.values()
        rows = results.of_pair(run, by_flops)
        yield from _budget(rows, "equal_flops", "FLOPs", who, names[by_flops], tolerance)
        if by_data != by_flops or abs(ratios["equal_data"][by_data] - ratios["equal_flops"][by_flops]) > 1e-9:
            others = results.of_pair(run, by_data)
            yield from _budget(others, "equal_data", "data", who, names[by_data], tolerance)
        for name, reference in names.items():
            yield from _equal_loss(results, run, name, who, reference)
            ratio = ratios["equal_flops"][name]
            more = f" (of {ratio:.2f} times the FLOPs)" if abs(ratio - 1) > tolerance else ""
            yield from _scored(of("heldout.difference", name), "Held out", who, reference + more, 4)
            what = "Average accuracy over the seven tasks"
            yield from _scored(of("accuracy.difference", name), what, who, reference + more, 1)
        if "switch.step" in rows:
            yield _switch(rows, who, names[by_flops])


def _budget(
    rows: dict[str, Number], metric: str, what: str, run: str, reference: str, tolerance: float
) -> Iterator[str]:
    """Who is ahead at equal FLOPs or equal data."""
    gap = rows[f"{metric}.difference"]
    if gap.value is None:
        return
    if not gap.bound and abs(rows[f"{metric}.ratio"].number - 1) > tolerance:
        reference = "baselines interpolated to its length"
    of = "of the held-out windows" if gap.on_heldout else "of the logged loss"
    noise = f"outside the noise {of}"
    if gap.low is None:
        noise = f"too few {'windows' if gap.on_heldout else 'logged steps'} to know the noise"
    elif gap.winner == "undecided":
        noise = "which decides nothing" if gap.bound else f"within the noise {of}"
    interval = "" if gap.interval is None else f" (difference {_ends(gap, '+.4f')})"
    losses = [rows[f"{metric}.{side}_loss"].number for side in ("run", "reference")]
    unit, side = "nats/held-out token" if gap.on_heldout else gap.unit, "below" if gap.value < 0 else "above"
    yield (
        f"At equal {what} {run} ends {abs(gap.value):.4f} {unit} {side} {reference}: "
        f"{losses[0]:.4f} against {losses[1]:.4f}{interval}, {noise}"
    ) + (f"; {gap.note}." if gap.bound else ".")


def _equal_loss(results: Results, run: str, reference: str, who: str, other: str) -> Iterator[str]:
    """The speed-up at equal loss, or that there is none to tell, and where the run itself passes the reference."""
    rows = results.of_pair(run, reference)
    if "equal_loss.at.steps" not in rows:
        return
    steps, times, hours = (
        rows[f"equal_loss.{what}"] for what in ("at.steps", "speedup.steps", "speedup.hours")
    )
    metric, loss = (
        (f"{ON_HELDOUT}final_loss", "final held-out loss")
        if steps.on_heldout
        else ("final_loss", "final loss")
    )
    bound = BOUND_WORDS[times.bound]
    if steps.exists:
        target = results.value(run, metric)
        clock = f" and {bound}{hours.number:.2f} times in training hours" if hours.exists else ""
        yield (
            f"For the {loss} of {who} ({target:.4f}) the baseline needs {bound}{steps.number:,.0f} "
            f"steps{between(steps)}: a speed-up of {bound}{times.number:.2f} times in steps{between(times, 2)}"
            f"{clock}; {times.note}."
        )
    elif times.exists:
        yield f"Equal loss: {times.note}; the speed-up in steps is {bound}{times.number:.2f} times."
    else:
        yield f"Equal loss of {who} and {other}: {times.note}."
    reached, faster = rows["reaches.at.steps"], rows["reaches.speedup.steps"]
    if reached.exists:
        target = results.value(reference, metric)
        yield (
            f"{who} passes the {loss} of {other} ({target:.4f}) after {reached.number:,.0f} "
            f"steps{between(reached)}: a speed-up of at least {faster.number:.2f} times."
        )


def _scored(gap: Number, what: str, run: str, reference: str, digits: int) -> Iterator[str]:
    """Difference of an evaluation."""
    if gap.value is None:
        return
    decided = {"run": f"{run} is ahead", "reference": f"{reference} is ahead"}.get(
        gap.winner, "within the noise of the scored items"
    )
    if gap.low is None:
        decided = "the error is not known"
    paired = f", {gap.note}" if gap.note == PAIRED_BY_DOCUMENT else ""
    interval = "" if gap.interval is None else f" ({_ends(gap, f'+.{digits}f')}{paired})"
    side = "lower" if gap.value < 0 else "higher"
    unit = "points" if gap.unit == "%" else gap.unit
    yield f"{what}, {run} is {abs(gap.value):.{digits}f} {unit} {side} than {reference}{interval}: {decided}."


def _switch(rows: dict[str, Number], run: str, reference: str) -> str:
    """Spike and recovery."""
    step, first, height, recovered = (
        rows[f"switch.{name}"] for name in ("step", "first_loss", "height_over_reference", "steps_to_recover")
    )
    text = f"At the switch (step {step.number:,.0f}) the loss of {run} jumps to {first.number:.2f}"
    if first.on_heldout:
        text = f"At the switch (step {step.number:,.0f}) the held-out loss of {run} is {first.number:.2f}"
    if height.exists:
        side = "above" if height.number > 0 else "still below"
        text += f", {abs(height.number):.2f} nats {side} {reference}"
    if first.on_heldout and recovered.exists:
        interval = between(recovered) if recovered.low != recovered.high else ""
        return f"{text}; it is at or below that {recovered.number:,.0f} steps after the switch{interval}."
    return (
        f"{text}; smoothed it is at or below that from {recovered.number:,.0f} steps after the switch."
        if recovered.exists
        else f"{text}; {recovered.reason}."
    )


def _seed_sentences(results: Results) -> Iterator[str]:
    """The differences over seeds, with the names in front."""
    for gap in results.best("seeds"):
        name, _, key = gap.metric.rpartition(".")
        if key != "difference":
            continue
        n = [
            results.select(
                "seeds", group=gap.group, run=gap.run, reference=gap.reference, metric=f"{name}.{mean}"
            )[0].n
            for mean in ("mean_reference", "mean_run")
        ]
        head = f"{in_group(gap.group)}{gap.run} against {gap.reference}, {metric_of(name).words}. "
        yield head + seeds_statement(gap, n, results.facts.options.confidence)


def seeds_statement(gap: Number, n: Sequence[int | None], confidence: float) -> str:
    """Whether a difference over seeds lies outside the noise; ``n`` seeds of the reference and of the run."""
    if gap.interval is None:
        return (
            f"One seed only ({n[0]} against {n[1]}): the difference of {gap.number:+.4g} {gap.unit} cannot be told "
            "from the noise over seeds."
        )
    how = f"paired over {n[0]} seeds" if gap.note == PAIRED else f"{n[0]} against {n[1]} seeds, unpaired"
    return (
        f"The mean difference is {gap.number:+.4g} {gap.unit} ({confidence:.0%} interval {_ends(gap, '+.4g')}, {how}): "
        f"{'outside' if gap.excludes_zero else 'within'} the noise over seeds."
    )


def _reproduction(results: Results, kind: Kind) -> Iterator[str]:
    """Whether the paper's directions, order and speed-up come out, or that there is nothing to compare with."""
    own = kind.reproduction(results)
    texts = list(_pair_reproduction(results) if own is None else own)
    yield from texts
    if results.facts.paper is None or texts:
        return
    name = results.facts.paper.replace("_", " ")
    if results.select("paper"):
        yield f"What the paper's {name} shows was not measured here, or not at its bag sizes and bag fractions."
    else:
        yield f"The paper gives no numbers for {name} that these runs could be held against."


def _pair_reproduction(results: Results) -> Iterator[str]:
    pairs = one_per_labels(results)
    for reference, run in pairs:
        for metric in COMPARED:
            yield from _direction(results, metric, reference, run)
    for group in results.groups:
        yield from _ordering(results, group)
    seen: set[str] = set()
    for reference, run in pairs:
        times = results.of_pair(run.name, reference.name).get("equal_loss.speedup.steps")
        theirs = _published_speedup(results, reference, run)
        if times is None or theirs is None or run.name in seen:
            continue
        seen.add(run.name)
        ours = f"{BOUND_WORDS[times.bound]}{times.number:.2f} times" if times.exists else "not reached"
        name = name_of(results, run)
        yield f"Speed-up in steps at equal final loss, {name}: ours {ours}, the paper's {theirs}."


def _direction(results: Results, metric: Metric, reference: RunFacts, run: RunFacts) -> Iterator[str]:
    """Sign of run minus reference, ours and the paper's."""
    published = [results.get("paper", side.name, metric.name) for side in (run, reference)]
    name, row = metric.name, "accuracy.difference"
    if name == "final_loss":
        name = results.final_loss((run, reference))
        row = name.replace(metric.name, "equal_flops.difference")
    ours = [results.get("run", side.name, name) for side in (run, reference)]
    if None in published or any(number is None or not number.exists for number in ours):
        return
    theirs = published[0].number - published[1].number  # type: ignore[union-attr]
    gap = ours[0].number - ours[1].number  # type: ignore[union-attr]
    found = results.get("pair", run.name, row, reference.name)
    decided = None
    # equal_flops holds exactly this difference only where the two budgets are equal.
    if (
        found is not None
        and found.exists
        and abs(found.number - gap) < 1e-12
        and found.excludes_zero is not None
    ):
        decided = found.excludes_zero
    else:
        errors = [number.stderr for number in ours if number is not None and number.stderr is not None]
        decided = abs(gap) > _SURE * math.hypot(*errors) if len(errors) == 2 else None
    assert metric.tie is not None
    if abs(theirs) < metric.tie:
        verdict = "the paper's two runs tie; ours " + ("differ" if decided else "do too, within the noise")
    else:
        verdict = {
            (True, True): "direction reproduced",
            (True, False): "same direction, but within the noise",
            (True, None): "same direction; the noise is unknown",
            (False, True): "direction not reproduced",
            (False, False): "opposite direction, but within the noise: undecided",
            (False, None): "opposite direction; the noise is unknown",
        }[(gap * theirs > 0, decided)]
    yield (
        f"{name_of(results, run)} minus {name_of(results, reference)}, {metric_of(name).words}: ours {gap:+.3f}, "
        f"the paper's {theirs:+.3f} {metric.difference_unit} (at its sizes): {verdict}."
    )


def _ordering(results: Results, group: str) -> Iterator[str]:
    """In how many pairs of variants the paper's order of final losses holds; needs three."""
    ours: dict[str, list[float]] = {}
    theirs: dict[str, float] = {}
    runs = [run for run in results.runs if run.group == group]
    name = results.final_loss(runs)
    for run in runs:
        loss, published = results.get("run", run.name, name), results.get("paper", run.name, "final_loss")
        if loss is not None and loss.exists and published is not None:
            ours.setdefault(run.label, []).append(loss.number)
            theirs[run.label] = published.number
    if len(ours) < 3:
        return
    tie = METRICS["final_loss"].tie or 0.0
    gaps = [(theirs[a] - theirs[b], np.mean(ours[a]) - np.mean(ours[b])) for a, b in combinations(ours, 2)]
    untied = [paper * own > 0 for paper, own in gaps if abs(paper) >= tie]
    yield (
        f"{f'{group}: order' if group else 'Order'} of the {len(ours)} final losses: {sum(untied)} of {len(untied)} "
        f"pairs as in the paper (ties left out), {'reproduced' if all(untied) else 'not fully reproduced'}."
    )


def _published_speedup(results: Results, reference: RunFacts, run: RunFacts) -> str | None:
    """The paper's baselines of this group at its version of the run's final loss; None where it does not say."""
    family: dict[float, float] = {}
    for other in results.runs:
        numbers = results.metrics(other.name, "paper")
        if (
            other.is_baseline
            and (other.group, other.model) == (run.group, run.model)
            and {"steps", "final_loss"} <= set(numbers)
        ):
            family[numbers["steps"].number] = numbers["final_loss"].number
    own = results.metrics(run.name, "paper")
    if not {"steps", "final_loss"} <= set(own) or not reference.is_baseline or not family:
        return None
    steps, target = own["steps"].number, own["final_loss"].number
    lengths = sorted(family)
    if len(lengths) > 1:
        finals = [exact(family[length]) for length in lengths]
        found = length_crossing(np.array(lengths), finals, exact(target), 0.95, 20, 0)
        if found.position is not None:
            return f"{found.position / steps:.2f} times"
    longest = lengths[-1]
    return f"at least {longest / steps:.2f} times" if family[longest] > target and longest > steps else None


def _warnings(results: Results) -> Iterator[str]:
    """Repeated data, partial evaluations, runs on different devices or corpora."""
    repeats = []
    for run in results.runs:
        numbers = results.metrics(run.name)
        if numbers["epochs"].number > _REPEATS:
            unique = count(numbers["unique_data_tokens"].number)
            repeats.append(
                f"{name_of(results, run)} {numbers['epochs'].number:.2f} epochs of {unique} unique tokens"
            )
    if repeats:
        yield (
            f"Data repeats: {'; '.join(repeats)}. What a run gains by reading more is smaller with repeated "
            "than with fresh data."
        )
    if limited := {task for run in results.runs for task in run.limited}:
        yield f"Scored on a part of their items only: {', '.join(sorted(limited))}."
    for what, attribute, consequence in (
        ("devices", "device", "hours cannot be compared, steps and FLOPs can"),
        ("corpora", "data_identity", "their losses cannot be compared"),
    ):
        for model in dict.fromkeys(run.model for run in results.runs):
            found = sorted({getattr(run, attribute) for run in results.runs if run.model == model})
            if len(found) > 1:
                names = ", ".join(name[:24] for name in found)
                yield f"Runs of one model used different {what} ({names}): {consequence}."


def _gaps(results: Results) -> Iterator[str]:
    """Evaluations that some runs have and others lack: the table shows a gap there."""
    for name in ("heldout_nats_per_token", "average_accuracy"):
        found = {run.name: results.metrics(run.name)[name] for run in results.runs}
        lacking = [run for run, number in found.items() if not number.exists]
        if lacking and len(lacking) < len(found):
            yield f"No {METRICS[name].words} for {', '.join(lacking)}: {found[lacking[0]].reason}."
    lacking = [
        run.name for run in results.runs if results.get("run", run.name, f"{ON_HELDOUT}final_loss") is None
    ]
    if 0 < len(lacking) < len(results.runs):
        yield (
            f"Held-out loss was not measured during training of {', '.join(lacking)}: what is said of "
            f"{'it' if len(lacking) == 1 else 'them'} is read off training losses."
        )
