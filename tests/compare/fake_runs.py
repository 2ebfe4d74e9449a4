"""Runs whose final losses follow a known law, and comparisons of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from tests.made_stages import write_run
from tst_titan.compare import ComparisonSpec, Results, compare
from tst_titan.compare.numbers import Number
from tst_titan.config.load import parse

SLOPE = 0.3


def law(step: float) -> float:
    """Final loss of a baseline of that many steps."""
    return 5 - SLOPE * math.log(step)


def wsd(
    end: int, shift: float = 0.0, spike: float = 0.0, switch: int = 0, final_step: float | None = None
) -> Any:
    """A run of ``end`` steps that is 0.1 above its final law before the decay; flat over the last 100 steps.

    The flat end makes the mean over the last logged steps equal the final loss exactly.
    """
    start = int(0.8 * end)
    last = law(final_step or end) + shift

    def loss(step: int, phase: str, bag_size: int) -> float:
        if phase == "bag":
            return 6.0 - 0.0001 * step
        if phase == "decay":
            share = min(1.0, (step - start) / (end - 100 - start))
            return last + 0.1 * (1 - share) ** 2
        above = spike * max(0.0, 1 - (step - switch) / 200)
        return last + 0.1 + SLOPE * math.log(start / max(step, 1)) + above

    return loss


def baseline(root: Path, end: int, noise: float = 0.0, seed: int = 0, **keys: Any) -> dict[str, Any]:
    """Spec of a baseline that ends at ``law(end)``."""
    start = int(0.8 * end)
    folder = root / f"base-{end}-{seed}-{keys.get('name', '')}"
    stages = write_run(folder, (("token", 1, start), ("decay", 1, end)), wsd(end), noise, 7 * end + seed)
    name = f"base-{end}" if not seed else f"base-{end}-{seed}"
    return {
        "name": name,
        "label": f"baseline {end}",
        "role": "baseline",
        "seed": seed,
        "stages": stages,
    } | keys


def tst(
    root: Path,
    end: int,
    like: float,
    bag_size: int = 6,
    fraction: float = 0.3,
    noise: float = 0.0,
    seed: int = 0,
    **keys: Any,
) -> dict[str, Any]:
    """Spec of a TST run of ``end`` steps that ends where a baseline of ``like`` steps ends."""  # fmt: skip
    switch, start = round(fraction * end), int(0.8 * end)
    loss = wsd(end, spike=1.5, switch=switch, final_step=like)
    folder = root / f"tst-{end}-{bag_size}-{fraction}-{seed}-{keys.get('name', '')}"
    middle = (("token", 1, start),) if switch < start else ()
    plan = (("bag", bag_size, switch), *middle, ("decay", 1, end))
    stages = write_run(folder, plan, loss, noise, 3 * end + seed)
    return {
        "name": f"tst-s{bag_size}-r{fraction}-{seed}", "label": f"TST s={bag_size} r={fraction}", "role": "tst",
        "seed": seed, "axes": {"bag_size": bag_size, "bag_fraction": fraction}, "stages": stages,
    } | keys  # fmt: skip


def make(kind: str, runs: list[dict[str, Any]], **keys: Any) -> Results:
    """Compare these runs."""
    spec = {"experiment": "test", "scale": "cpu", "kind": kind, "runs": runs} | keys
    return compare(parse(ComparisonSpec, spec, "spec"))


def texts(results: Results, kind: str) -> str:
    """All sentences of one kind."""
    return "\n".join(item.text for item in results.facts.verdict if item.kind == kind)


def pairs(results: Results) -> list[tuple[str, str]]:
    """Names of (reference, run) of every pair."""
    return [(reference.name, run.name) for reference, run in results.pairs()]


def first_pair(results: Results) -> dict[str, Number]:
    """Numbers of the first pair by metric."""
    reference, run = pairs(results)[0]
    return {row.metric: row for row in results.select("pair", run=run, reference=reference)}
