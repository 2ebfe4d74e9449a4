"""``tst-titan plan``: what experiments cost at a scale, printed before anything runs."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from tst_titan.config.experiment import PlanConfig
from tst_titan.config.load import parse, read_yaml
from tst_titan.models.family import ParameterCounts
from tst_titan.run.speed import Speed, processor_name
from tst_titan.run.upgrade import recognise_format_1
from tst_titan.text import WIDTH, amount, hours_alone, in_bytes, power_of_ten, text_table
from tst_titan.tree.plan import BYTES_PER_PARAMETER, Cost, Plan, Share
from tst_titan.tree.project import Project
from tst_titan.tree.resolve import Catalog

COLUMNS = ("", "runs", "stages", "done", "steps", "latents", "data tokens", "FLOPs")
Hours = Callable[[Cost], tuple[str, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan plan``."""
    parser.add_argument("targets", nargs="*", help="experiments; default those of the config")
    parser.add_argument("--scale", help="a file of configs/scales; default the config's")
    parser.add_argument("--results", help="folder where finished stages are looked for; default the config's")
    parser.add_argument("--configfile", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--mfu", type=float, help="share of the peak that training reaches, e.g. 0.4")
    parser.add_argument("--peak-tflops", type=float, help="peak of one device, e.g. 989")
    parser.add_argument("--json", action="store_true", help="everything, every stage too, for programs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; writes nothing.

    Raises:
        UserError: an unknown target or scale, or a mistake in a config.
    """
    config = read_yaml(arguments.configfile)
    config |= {key: value for key in ("scale", "results") if (value := getattr(arguments, key)) is not None}
    root = Path.cwd()
    catalog = Catalog(root / "configs")
    for word in set(arguments.targets) - set(catalog.targets()):
        catalog.members(word)  # says what is known
    project = Project.open(root, config, arguments.targets)
    given = {key: value for key in PlanConfig.model_fields if (value := getattr(arguments, key)) is not None}
    assumed = parse(PlanConfig, project.config.plan.model_dump() | given, "tst-titan plan")
    recognise_format_1(project.stages, Path(project.results))
    plan = Plan(project, assumed)
    models = models_of(plan)
    speed = Speed.measured(Path(project.results), {counts.total for counts in models.values()})
    if arguments.json:
        more = {
            "models": {name: counts.as_manifest() for name, counts in models.items()},
            "measured": asdict(speed) if speed else None,
        }
        print(json.dumps(plan.as_json() | more, indent=2))
    else:
        print(text_of(plan, models, speed))
    return 0


def models_of(plan: Plan) -> dict[str, ParameterCounts]:
    """Parameters of every model that the plan trains, by the name of its file."""
    sizes = plan.project.scale().sizes
    found = {
        sizes[run.size].model: run.stages[0].config.model.count_parameters()  # type: ignore[index]
        for run in plan.project.trained()
    }
    return dict(sorted(found.items()))


def text_of(plan: Plan, models: Mapping[str, ParameterCounts], speed: Speed | None) -> str:
    """The plan as people read it.

    Args:
        plan: what is counted.
        models: parameters by model.
        speed: what was measured here; on CPUs the hours follow from it, and without it there are none.
    """
    assumed, total = plan.assumed, plan.total
    on_gpus = any(stage.runtime.gpus_per_node for stage in plan.project.stages.values())

    def hours(cost: Cost) -> tuple[str, ...]:
        if on_gpus:
            return (hours_alone(cost.device_hours(assumed)),)
        return (hours_alone(cost.flops / speed.flops_per_second / 3600),) if speed else ()

    column = ("GPU-hours",) if on_gpus else ("hours here",) if speed else ()
    rows: list[Sequence[str]] = []
    for share in plan.experiments:
        rows += _rows_of(share, hours)
    if len(plan.experiments) > 1:
        rows += _rows_of(total, hours)
    parts = [
        f"Scale {plan.project.scale_name}: {plan.project.scale().description}",
        text_table((*COLUMNS, *column, "checkpoints"), rows),
        _saving(total),
        f"Parameters: {'; '.join(_parameters(name, counts) for name, counts in models.items())}."
        if models
        else "",
        _hours(assumed, speed, on_gpus) + " Training only: neither corpus, export nor evaluation.",
        _checkpoints(plan),
        "Training tokens that a corpus needs: "
        + (", ".join(f"{name} {amount(tokens)}" for name, tokens in plan.corpus_tokens.items()) or "none"),
    ]
    table = parts[1]
    return "\n\n".join(part if part is table else textwrap.fill(part, WIDTH) for part in parts if part)


def _rows_of(share: Share, hours: Hours) -> list[Sequence[str]]:
    done = share.shared.stages - share.to_do.stages
    rows = [(share.name, str(share.runs), *_cells(share.shared, hours, f"{done:,}"))]
    if share.to_do not in (share.shared, Cost()):
        rows.append(("  to do", "", *_cells(share.to_do, hours, "")))
    if share.alone.flops > share.shared.flops * (1 + 1e-9):
        rows.append(("  without sharing", "", *_cells(share.alone, hours, "")))
    return list(rows)


def _cells(cost: Cost, hours: Hours, done: str) -> tuple[str, ...]:
    return (
        f"{cost.stages:,}",
        done,
        f"{cost.steps:,}",
        amount(cost.latents),
        amount(cost.data_tokens),
        f"{cost.flops:.3g}",
        *hours(cost),
        in_bytes(cost.checkpoint_bytes),
    )


def _parameters(name: str, counts: ParameterCounts) -> str:
    active = "" if counts.active == counts.total else f", {counts.active:,} active"
    return f"{name} {counts.total:,}{active}"


def _hours(assumed: PlanConfig, speed: Speed | None, on_gpus: bool) -> str:
    if on_gpus:
        return f"GPU-hours: FLOPs at {assumed.mfu:.0%} (MFU) of {assumed.peak_tflops:,g} TFLOP/s a device."
    if speed is None:
        return (
            f"No hours: this scale trains on CPUs, and no stage has trained on this kind ({processor_name()}) under "
            "these results yet. Once one has, its speed says how long the others take."
        )
    stages = f"{speed.stages} finished stage{'s' * (speed.stages != 1)}"
    return (
        f"Hours here: FLOPs at {power_of_ten(speed.flops_per_second)} a second, as {stages} trained on this kind of "
        f"processor ({speed.processor}), one after another; stages that train side by side take less."
    )


def _saving(total: Share) -> str:
    if not total.shared.flops or total.alone.flops <= total.shared.flops:
        return ""
    saved = 1 - total.shared.flops / total.alone.flops
    return f"Sharing stages saves {saved:.1%} of the FLOPs of training every run by itself."


def _checkpoints(plan: Plan) -> str:
    left = plan.bytes_after_pruning
    return (
        f"Checkpoints: {BYTES_PER_PARAMETER} bytes a parameter (weights and two Adam moments in float32), the newest "
        f"few of every stage. After `snakemake prune`: {in_bytes(left['branch_points'])} with keep_checkpoints: "
        f"branch_points, {in_bytes(left['final'])} with final."
    )
