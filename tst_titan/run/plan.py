"""``tst-titan plan``: what experiments cost at a scale, printed before anything runs."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tst_titan.config.experiment import PlanConfig
from tst_titan.config.load import parse, read_yaml
from tst_titan.run.upgrade import recognise_format_1
from tst_titan.text import amount, hours_alone, in_bytes, text_table
from tst_titan.tree.plan import BYTES_PER_PARAMETER, Cost, Plan, Share
from tst_titan.tree.project import Project
from tst_titan.tree.resolve import Catalog

HEADINGS = (
    "",
    "runs",
    "stages",
    "done",
    "steps",
    "latents",
    "data tokens",
    "FLOPs",
    "GPU-hours",
    "checkpoints",
)
WIDTH = 110


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
    print(json.dumps(plan.as_json(), indent=2) if arguments.json else text_of(plan))
    return 0


def text_of(plan: Plan) -> str:
    """The plan as people read it."""
    assumed, total = plan.assumed, plan.total
    rows: list[Sequence[str]] = []
    for share in plan.experiments:
        rows += _rows_of(share, assumed)
    if len(plan.experiments) > 1:
        rows += _rows_of(total, assumed)
    parts = [
        f"Scale {plan.project.scale_name}: {plan.project.scale().description}",
        text_table(HEADINGS, rows),
        _saving(total),
        f"GPU-hours: FLOPs at {assumed.mfu:.0%} (MFU) of {assumed.peak_tflops:,g} TFLOP/s a device. Training only: "
        "neither corpus, export nor evaluation.",
        _checkpoints(plan),
        "Training tokens that a corpus needs: "
        + (", ".join(f"{name} {amount(tokens)}" for name, tokens in plan.corpus_tokens.items()) or "none"),
    ]
    table = parts[1]
    return "\n\n".join(part if part is table else textwrap.fill(part, WIDTH) for part in parts if part)


def _rows_of(share: Share, assumed: PlanConfig) -> list[Sequence[str]]:
    done = share.shared.stages - share.to_do.stages
    rows = [(share.name, str(share.runs), *_cells(share.shared, assumed, f"{done:,}"))]
    if share.to_do not in (share.shared, Cost()):
        rows.append(("  to do", "", *_cells(share.to_do, assumed, "")))
    if share.alone.flops > share.shared.flops * (1 + 1e-9):
        rows.append(("  without sharing", "", *_cells(share.alone, assumed, "")))
    return list(rows)


def _cells(cost: Cost, assumed: PlanConfig, done: str) -> tuple[str, ...]:
    return (
        f"{cost.stages:,}",
        done,
        f"{cost.steps:,}",
        amount(cost.latents),
        amount(cost.data_tokens),
        f"{cost.flops:.3g}",
        hours_alone(cost.device_hours(assumed)),
        in_bytes(cost.checkpoint_bytes),
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
