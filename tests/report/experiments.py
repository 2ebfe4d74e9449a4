"""Small experiments of every kind, compared by the real tst_titan.compare, for the tests of the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.report.stages import Curve, segments, write_heldout, write_run, write_tasks
from tst_titan.compare import ComparisonSpec, compare, write_results
from tst_titan.config.load import parse
from tst_titan.paper import SEVEN_TASKS

Run = dict[str, Any]


def pair(results: Path) -> dict[str, Any]:
    """Figure 3: one TST run, baselines of equal FLOPs and of two other lengths."""
    runs = []
    for name, total, bag_steps, floor in (
        ("tst", 1000, 300, 1.93),
        ("baseline", 1000, 0, 2.0),
        ("baseline-1.8x", 1800, 0, 2.0),
        ("baseline-2.5x", 2500, 0, 2.0),
    ):
        stages = write_run(
            results, f"pair-{name[:3]}", segments(total, 6, bag_steps), Curve(floor=floor, seed=total)
        )
        role = "tst" if bag_steps else "baseline"
        published = None
        if name == "tst" or total != 2500:
            steps = {1000: 20_000, 1800: 36_000}[total]
            published = {"model": "3B", "total_steps": steps, "variant": role}
        runs.append(
            {"name": name, "label": {"tst": "TST s=6 r=0.3"}.get(name, name), "role": role, "seed": 0,
             "axes": {"bag_size": 6, "bag_fraction": 0.3} if bag_steps else {}, "stages": stages,
             "heldout": write_heldout(results, f"pair-{name[:3]}", stages, floor + 0.4),
             "tasks": write_tasks(results, f"pair-{name[:3]}", stages, {"heldout_continuation": 0.41 - floor / 20}),
             "paper": published}
        )  # fmt: skip
    return _spec("figure_3", "pair", "Equal FLOPs, equal loss, equal data", runs, paper="figure_3")


def smoke(results: Path) -> dict[str, Any]:
    """A pair without evaluations at a scale that means nothing."""
    runs = []
    for name, bag_steps in (("tst", 60), ("baseline", 0)):
        stages = write_run(results, "smoke", segments(200, 4, bag_steps), Curve())
        runs.append(
            {"name": name, "label": name, "role": name, "axes": {"bag_size": 4} if bag_steps else {},
             "stages": stages}
        )  # fmt: skip
    spec = _spec("figure_6", "pair", "Superposed input, output or both", runs, scale="smoke")
    return spec | {"caveat": "A handful of steps: these numbers only show that the plumbing works."}


def grid(
    results: Path,
    sizes: tuple[int, ...] = (2, 4, 8),
    fractions: tuple[float, ...] = (0.2, 0.3, 1.0),
    with_tasks: bool = False,
) -> Any:
    """Figure 4: final loss, and accuracies if asked for, over s and r, two models."""
    runs = []
    for group, model, total in (("small-short", "270M", 20_000), ("medium-short", "600M", 20_000)):
        for s, r in [(1, 0.0), *((s, r) for s in sizes for r in fractions)]:
            name = f"{group}-s{s}-r{r:g}"
            gain = 0.0 if s == 1 else 0.05 - 0.01 * abs(s - 4) - 0.4 * abs(r - 0.3)
            recipe = f"grid-{group}"
            parts = segments(400, s, round(400 * r) if s > 1 else 0)
            stages = write_run(results, recipe, parts, Curve(floor=2.0 - gain, seed=s))
            tasks = dict.fromkeys(SEVEN_TASKS, 0.3 + gain) | {"mmlu": 0.25}
            runs.append(
                {"name": name, "label": f"s={s} r={r:g}" if s > 1 else "baseline",
                 "role": "tst" if s > 1 else "baseline", "group": group,
                 "axes": {"bag_size": s, "bag_fraction": r}, "stages": stages,
                 "tasks": write_tasks(results, recipe, stages, tasks) if with_tasks and r < 1 else None,
                 "paper": {"model": model, "total_steps": total, "bag_weighting": "uniform"}}
            )  # fmt: skip
    return _spec("figure_4", "grid", "Final loss over bag size and bag fraction", runs, paper="figure_4")


def lr_sweep(results: Path) -> dict[str, Any]:
    """Figure 7: both variants over four learning rates."""
    runs = []
    for rate in (1e-3, 2e-3, 4e-3, 6e-3):
        for role, bag_steps in (("baseline", 0), ("tst", 120)):
            floor = 2.0 + 2e3 * abs(rate - 2e-3) ** 1.5 - (0.04 if bag_steps else 0.0)
            recipe = f"lr-{rate:g}"
            stages = write_run(results, recipe, segments(400, 4, bag_steps), Curve(floor=floor))
            runs.append(
                {"name": f"{role}-lr{rate:g}", "label": f"{role} lr={rate:g}", "role": role,
                 "axes": {"lr": rate}, "stages": stages}
            )  # fmt: skip
    return _spec("figure_7", "lr_sweep", "Learning rate sweeps", runs, paper="figure_7")


def seeds(results: Path) -> dict[str, Any]:
    """One pair over three seeds."""
    runs = []
    for seed in range(3):
        for role, bag_steps in (("baseline", 0), ("tst", 120)):
            floor = 2.0 + 0.01 * seed - (0.05 if bag_steps else 0.0)
            stages = write_run(results, f"seed{seed}", segments(400, 4, bag_steps), Curve(floor, seed=seed))
            runs.append(
                {"name": f"{role}-seed{seed}", "label": role, "role": role, "seed": seed,
                 "axes": {"bag_size": 4} if bag_steps else {}, "stages": stages}
            )  # fmt: skip
    return _spec("seeds", "seeds", "The pair over three seeds", runs)


def transfer(results: Path) -> dict[str, Any]:
    """Worth of a bag step over s, r and two widths, one of the runs beyond the longest baseline."""
    runs = []
    for width in (64, 128):
        recipe = f"transfer-{width}"
        for total in (300, 400, 600, 900):
            stages = write_run(results, recipe, segments(total), Curve(floor=2.0, seed=width, noise=0.004))
            runs.append(
                {"name": f"baseline-{width}-{total}", "label": f"baseline {total}", "role": "baseline",
                 "group": f"width-{width}", "axes": {"width": width}, "stages": stages}
            )  # fmt: skip
        for s in (2, 4):
            for r in (0.2, 0.4):
                gain = 0.02 * s * (1 - r) if (width, s, r) != (128, 4, 0.2) else 0.5
                parts = segments(400, s, round(400 * r))
                stages = write_run(results, recipe, parts, Curve(2.0 - gain, noise=0.004))
                runs.append(
                    {"name": f"tst-{width}-s{s}-r{r:g}", "label": f"s={s} r={r:g}", "role": "tst",
                     "group": f"width-{width}", "stages": stages,
                     "axes": {"width": width, "bag_size": s, "bag_fraction": r}}
                )  # fmt: skip
    return _spec("transfer", "transfer", "What a bag step is worth", runs)


def moe(results: Path) -> dict[str, Any]:
    """Figure 1: a pair of mixture-of-experts models that logged their expert load, and a curriculum of bags."""
    runs = []
    for name, bag_steps in (("tst", 100), ("baseline", 0)):
        parts = segments(400, 16, bag_steps)
        stages = write_run(
            results, f"moe-{name}", parts, Curve(floor=1.95 if bag_steps else 2.0), experts=(2, 8)
        )
        runs.append({"name": name, "label": name, "role": name, "stages": stages,
                     "paper": {"model": "10B-A1B", "total_steps": 49_983 if bag_steps else 125_000,
                               "variant": name}})  # fmt: skip
    return _spec("figure_1", "pair", "MoE: loss over training time", runs, paper="figure_1")


EXPERIMENTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "figure_3": pair, "figure_4": grid, "figure_7": lr_sweep, "seeds": seeds, "transfer": transfer,
    "figure_1": moe, "figure_6": smoke,
}  # fmt: skip


def build(results: Path, spec: dict[str, Any]) -> Path:
    """Compare and write; returns the compare folder."""
    folder = results / "compare" / spec["scale"] / spec["experiment"]
    write_results(compare(parse(ComparisonSpec, spec, "spec")), folder)
    return folder


def _spec(
    experiment: str, kind: str, title: str, runs: list[Run], paper: str | None = None, scale: str = "cpu"
) -> dict[str, Any]:
    return {
        "experiment": experiment, "scale": scale, "kind": kind, "title": title, "runs": runs,
        "paper": paper,
        "options": {"bootstrap_samples": 50},
    }  # fmt: skip
