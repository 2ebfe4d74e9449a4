"""Whole optimizer steps of the demo's model, and what a stage costs besides them: `python -m benchmarks.stages`.

One process holds a token trainer and bag trainers and runs them in turn: a bag step reads s times the data of a
token step and must cost little more. The other bars are the paper's loop of s cross-entropies, a loop in plain PyTorch
of the same model, batch and optimizer, and the stock recipe against the token phase of the superposed one.

``--scale gpu --size small`` takes model, batch and runtime of a scale instead: both phases, on a GPU compiled and not,
with MFU and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.corpus import write_corpus
from tst_titan.config.load import dump
from tst_titan.config.schema import ModelConfig, RuntimeConfig, StageConfig
from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.files import write_if_changed
from tst_titan.run import warm
from tst_titan.run.speed import processor_name
from tst_titan.text import text_table
from tst_titan.titan import cpu
from tst_titan.tree.checkpoint import damage, write_list
from tst_titan.tree.folder import StageFolder, stage_yaml
from tst_titan.tree.resolve import Catalog

DEVICE_TYPE = cpu.prepare()

import torch  # noqa: E402
from torchtitan.components.loss import BaseLoss  # noqa: E402

from benchmarks.measure import Action, interleave, peak_extra_bytes, ratio, set_pages, table, write  # noqa: E402
from benchmarks.plain import plain_step  # noqa: E402
from tst_titan.titan.job import Job  # noqa: E402
from tst_titan.titan.superposition import BagLoss, Superposition, superpose  # noqa: E402
from tst_titan.titan.train import one_process_defaults  # noqa: E402

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Shape:
    """What a step computes: a model of configs/models, sequences of so many latents, and how it runs."""

    model: str
    length: int
    sequences: int
    runtime: RuntimeConfig

    @property
    def config(self) -> ModelConfig:
        """The model."""
        return Catalog(ROOT / "configs").model(self.model)

    def __str__(self) -> str:
        return f"{self.model}, {self.sequences} x {self.length} latents"


# The demo's shape: configs/scales/cpu.yaml.
DEMO = Shape("cpu-dense", 128, 32, RuntimeConfig(cpu_threads=1))


class LoopLoss(BagLoss):
    """The paper's own code: one cross-entropy for each target of the bag."""

    def __call__(
        self,
        pred: torch.Tensor,
        labels: torch.Tensor,
        global_valid_tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Mean over the targets of ordinary cross-entropies, summed over positions."""
        logits = pred.flatten(0, 1).float()
        loss = logits.new_zeros(())
        for k in range(self.bag_size):
            target = labels[..., k].flatten()
            loss = loss + torch.nn.functional.cross_entropy(logits, target, reduction="sum")
        return loss / self.bag_size / labels[..., 0].numel(), {}


def stage_folder(
    results: Path, name: str, bag_size: int, steps: int = 10_000, shape: Shape = DEMO
) -> StageFolder:
    """A root stage, written as the workflow writes it."""
    folder = results / "train" / "bench" / f"{name}-{steps}"
    stage = StageConfig.model_validate(
        {
            "phase": "bag" if bag_size > 1 else "token",
            "start_step": 0,
            "end_step": steps,
            "seed": 0,
            "precision": "float32" if DEVICE_TYPE == "cpu" else "bfloat16",
            "model": shape.config,
            "data": {
                "corpus": "bench",
                "sequence_length": shape.length,
                "batch_sequences": shape.sequences,
                "allow_repeat": True,
            },
            "superposition": {"bag_size": bag_size} if bag_size > 1 else None,
            "optimizer": {"learning_rate": 1e-3},
            "schedule": {"warmup_steps": 10},
        }
    )
    write_if_changed(folder / "stage.yaml", stage_yaml(stage))
    write_if_changed(folder / "runtime.yaml", dump(shape.runtime.model_copy(update={"log_every": 10**6})))
    return StageFolder.at(folder)


def one_step(folder: StageFolder, loss: type[BaseLoss] | None = None, superposed: bool = False) -> Any:
    """A function that runs one optimizer step; ``superposed`` gives a token stage the parts of a bag stage."""
    config = Job(folder, "0" * 64, None, "bench").trainer_config()
    trainer = (superpose(config, Superposition(bag_size=4, steps=1)) if superposed else config).build()
    if loss is not None:
        trainer.loss_fn.__class__ = loss
    trainer.stage_metrics.should_log = lambda step: False
    batches = iter(trainer.dataloader)

    def counted() -> Any:
        while True:
            batch = next(batches)
            trainer.metrics_processor.data_loading_times.append(0.0)
            yield batch

    iterator = counted()

    def step() -> None:
        trainer.step += 1
        trainer.train_step(iterator)

    return step


def stage_overhead(results: Path, name: str) -> dict[str, float]:
    """Seconds of a whole stage of 20 steps and those outside its optimizer steps, as its manifest says."""
    folder = stage_folder(results, name, 1, steps=20)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "tst_titan.cli", "train", str(folder.path)], check=True, capture_output=True
    )
    wall = time.perf_counter() - started
    return {"wall_s": wall, "outside_steps_s": wall - folder.manifest()["stage_seconds"]}


def phases_of(scale_name: str, size_name: str, rounds: int, out: Path) -> int:
    """Both phases of a size of a scale in one process: time by the token step's, MFU and peak memory.

    Raises:
        UserError: the scale has no such size.
    """
    scale = Catalog(ROOT / "configs").scale(scale_name)
    sizes = dict(scale.sizes)
    if size_name not in sizes:
        raise UserError(f"--size {size_name}: not in scale {scale_name}; valid are {', '.join(sizes)}")
    size = sizes[size_name]
    alone = {"nodes": 1, "processes_per_node": 1, "parallel": RuntimeConfig().parallel}
    runtime = (size.runtime or scale.runtime).model_copy(update=alone)
    device, bag_size = torch.device(DEVICE_TYPE), size.tst.bag_size
    if device.type == "cpu":
        torch.set_num_threads(runtime.cpu_threads or torch.get_num_threads())
    one_process_defaults()
    actions: dict[str, Action] = {}
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary)
        model = Catalog(ROOT / "configs").model(size.model)
        tokens = 4 * bag_size * size.batch_sequences * size.sequence_length
        write_corpus(results / "data" / "bench", tokens=tokens, vocab_size=model.vocab_size)
        for compiled in (False, True) if device.type == "cuda" else (False,):
            how = runtime.model_copy(update={"compile": compiled})
            shape = Shape(size.model, size.sequence_length, size.batch_sequences, how)
            for name, bag in (("token", 1), (f"bag{bag_size}", bag_size)):
                full = name + (", compiled" if compiled else "")
                actions[full] = one_step(stage_folder(results, full.replace(", ", "-"), bag, shape=shape))
        seconds = interleave(actions, rounds, device)
        peaks = {name: float(peak_extra_bytes(action, device)) for name, action in actions.items()}
        job = Job(stage_folder(results, "token", 1, shape=shape), "0" * 64, None, device_name(device))
        flops = job.flops_per_latent * size.batch_sequences * size.sequence_length
        peak = job.peak_flops()
    common: dict[str, Any] = {
        "group": "phases",
        "shape": str(shape),
        "device": device,
        "pages": "as they are",
    }
    ratios = [
        ratio(times, seconds["token"], name=f"{name} / token", **common) for name, times in seconds.items()
    ]
    rows = []
    for (name, times), by_token in zip(seconds.items(), ratios, strict=True):
        mfu = "unknown" if peak is None else f"{flops / statistics.median(times) / peak:.1%}"
        rows.append([name, f"{by_token.value:.3f}", mfu, f"{peaks[name] / 2**30:.2f}"])
    print(f"{scale_name}-{size_name}: {shape} on {device_name(device)}, {rounds} rounds")
    print(text_table(["step", "time / token step", "MFU", "peak beyond weights, GiB"], rows))
    write(out.with_stem(f"{out.stem}-{scale_name}-{size_name}"), device, ratios, {"phases": seconds})
    return 0


def device_name(device: torch.device) -> str:
    """The device, for people and for the table of peaks."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()


def main() -> int:
    """Measure, print the ratios and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench" / "stages.json")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--scale", help="measure a size of this scale instead of the demo's model")
    parser.add_argument("--size", default="small")
    parsed = parser.parse_args()
    if parsed.scale is not None:
        try:
            return phases_of(parsed.scale, parsed.size, parsed.rounds, parsed.out)
        except UserError as error:
            print(error, file=sys.stderr)
            return EXIT_USER_ERROR
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    torch.set_num_threads(1)
    set_pages("kept")
    device = torch.device(DEVICE_TYPE)
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary)
        write_corpus(results / "data" / "bench", tokens=400_000, vocab_size=DEMO.config.vocab_size)
        one_process_defaults()
        overhead = {"by itself": stage_overhead(results, "overhead")}
        warm.offer()  # as Snakemake does
        stage_overhead(results, "first")
        overhead["in a server's child"] = stage_overhead(results, "shared")
        del os.environ[warm.SERVERS]
        actions = {"token": one_step(stage_folder(results, "token", 1))}
        for size in (2, 4, 8, 16):
            actions[f"bag{size}"] = one_step(stage_folder(results, f"bag{size}", size))
        actions["loop8"] = one_step(stage_folder(results, "loop8", 8), LoopLoss)
        actions["superposed"] = one_step(stage_folder(results, "superposed", 1), superposed=True)
        for size in (1, 4):
            actions[f"plain{size}"] = plain_step(DEMO.config, DEMO.sequences, DEMO.length, size)
        seconds = interleave(actions, parsed.rounds, device)
        (checkpoint,) = (results / "train/bench/overhead-20").glob("checkpoint/*/step-20")
        sums: dict[str, Action] = {
            "listing": partial(write_list, checkpoint, 0),
            "check": partial(damage, checkpoint, True),
        }
        checksums = interleave(sums, parsed.rounds, device)
        peaks = {name: float(peak_extra_bytes(action, device)) for name, action in actions.items()}
    common: dict[str, Any] = {"group": "whole step", "shape": str(DEMO), "device": device, "pages": "kept"}
    targets = {
        ("bag2", "token"): None, ("bag4", "token"): None, ("bag8", "token"): "<= 1.05", ("bag16", "token"): "<= 1.08",
        ("loop8", "token"): None, ("superposed", "token"): None,
        ("plain1", "token"): ">= 0.95", ("plain4", "bag4"): ">= 0.95",
    }  # fmt: skip
    ratios = [
        ratio(seconds[over], seconds[under], name=f"{over} / {under}", target=target, **common)
        for (over, under), target in targets.items()
    ]
    memory = {**common, "group": "peak memory of a step"}
    ratios += [
        ratio([peaks[name]], [peaks["token"]], name=f"{name} / token", target="<= 1.03", **memory)
        for name in ("bag8", "bag16")
    ]
    every = RuntimeConfig().checkpoint_every
    between = [step * every for step in seconds["token"]]
    guarded = {**common, "group": f"checkpoint / {every} steps", "target": "<= 0.02"}
    ratios += [ratio(checksums[name], between, name=name, **guarded) for name in checksums]
    print(table(ratios))
    for how, taken in overhead.items():
        print(
            f"a stage of 20 steps {how}: {taken['wall_s']:.1f} s, {taken['outside_steps_s']:.1f} s of it outside "
            "optimizer steps (bound: 5 s)"
        )
    write(parsed.out, device, ratios, {"whole step": seconds, "checksums": checksums})
    content = json.loads(parsed.out.read_text()) | {"stage_overhead": overhead, "peak_bytes": peaks}
    parsed.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
