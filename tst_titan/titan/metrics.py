"""metrics.jsonl, the truth about a stage's training, and the line that people watch."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.tools import utils

from tst_titan.text import clock
from tst_titan.titan.cpu import peak_memory_gib
from tst_titan.tree.metrics import MetricsFile

SECONDS_BETWEEN_LINES = 5.0


def _run(*arguments: Any, **options: Any) -> subprocess.CompletedProcess:
    """torchtitan asks `lspci` which GPU is there and goes on without it, but only after a FileNotFoundError.

    A folder of the PATH that may not be read makes a missing program a PermissionError, a file there another OSError.
    """
    try:
        return subprocess.run(*arguments, **options)
    except OSError as error:
        raise FileNotFoundError(str(error)) from error


_with_our_run: Any = SimpleNamespace(**vars(subprocess) | {"run": _run})
utils.subprocess = _with_our_run


class StageMetrics(MetricsProcessor):
    """Writes one JSON line a logged step; cumulative figures count from the root of the run.

    Speeds count latents and data tokens apart, and MFU counts latents: torchtitan's own figure multiplies the
    FLOPs of a token by the labels read, s times too many in the bag phase.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(MetricsProcessor.Config):
        path: str = ""
        title: str = ""
        phase: str = "token"
        bag_size: int = 1
        start_step: int = 0
        end_step: int = 1
        checkpoint_every: int = 500
        latents_per_step: int = 1
        data_tokens_per_step: int = 1
        data_tokens_before: int = 0
        flops_before: float = 0.0
        flops_per_latent: float = 0.0
        expected_first_loss: float | None = None
        """What a cross-entropy starts near, ln(V) as a rule; None leaves the check out."""
        peak_flops: float | None = None
        """Of all processes together; None leaves MFU out."""

    def __init__(self, config: Config, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.settings = config
        self.lines = MetricsFile(Path(config.path))
        self.expert_load: Callable[[], list[list[float]] | None] = lambda: None
        self.seconds = 0.0
        self._logged: dict[str, Any] | None = None
        self._step_started: float | None = None
        self._steps_this_process = 0
        self._since = (config.start_step, 0.0)
        self._printed = 0.0

    def should_log(self, step: int) -> bool:
        """Besides every log_freq steps: the first, the last, and those with a checkpoint, which must be finite."""
        c = self.settings
        return super().should_log(step) or step == c.end_step or step % c.checkpoint_every == 0

    def start(self, step: int) -> None:
        """Begin or resume after ``step``: drop lines that a crash left beyond it and take up the clock."""
        if dist.get_rank() == 0:
            last = self.lines.truncate_after(step)
            self.seconds = last["seconds"] if last else 0.0
        self._since = (step, self.seconds)

    def begin_step(self) -> None:
        """Start the clock of one step; what lies between steps (checkpoints) is not training time."""
        self._step_started = time.perf_counter()

    def end_step(self) -> None:
        """Stop the clock of one step."""
        assert self._step_started is not None
        self.seconds += time.perf_counter() - self._step_started
        self._step_started = None
        self._steps_this_process += 1

    def write(self, heldout: dict[str, Any] | None) -> None:
        """Write the line of the step, if it was logged, with the held-out loss, if it was measured."""
        line, self._logged = self._logged, None
        if line is None:
            return
        if heldout is not None:
            line["heldout_loss"] = heldout["token_loss"]
            if heldout["bag_loss"] is not None:
                line["heldout_bag_loss"] = heldout["bag_loss"]
        self.lines.append(line)
        self.logger.log(
            {key: value for key, value in line.items() if isinstance(value, int | float)}, line["step"]
        )
        self._show(line)

    def log(
        self,
        step: int,
        global_avg_loss: float,
        global_max_loss: float,
        grad_norm: float,
        extra_metrics: dict[str, Any] | None = None,
    ) -> None:
        """Take down a step; ``write`` writes it.

        Raises:
            FloatingPointError: the gradient is not finite, so that the weights no longer are.
        """
        if not math.isfinite(grad_norm):
            raise FloatingPointError(f"the gradient norm is not finite ({grad_norm}) at step {step}")
        load = self.expert_load()  # collective: on every rank
        self.ntokens_since_last_log = 0
        self.data_loading_times.clear()
        if dist.get_rank() != 0:
            return
        self._logged = self._line(step, global_avg_loss, grad_norm, extra_metrics or {}, load)
        self._check_first_loss(step, global_avg_loss)

    def cumulative(self, step: int) -> dict[str, Any]:
        """Latents, data tokens and FLOPs of the run's training up to ``step``."""
        c = self.settings
        done = step - c.start_step
        return {
            "latents": step * c.latents_per_step,
            "data_tokens": c.data_tokens_before + done * c.data_tokens_per_step,
            "flops": c.flops_before + done * c.latents_per_step * c.flops_per_latent,
        }

    def _line(
        self, step: int, loss: float, grad_norm: float, extra: dict[str, Any], load: list[list[float]] | None
    ) -> dict[str, Any]:
        c = self.settings
        running = 0.0 if self._step_started is None else time.perf_counter() - self._step_started
        seconds = self.seconds + running
        steps, elapsed = step - self._since[0], max(seconds - self._since[1], 1e-9)
        self._since = (step, seconds)
        latents_per_second = steps * c.latents_per_step / elapsed
        mfu = None if c.peak_flops is None else latents_per_second * c.flops_per_latent / c.peak_flops
        return {
            "step": step,
            "phase": c.phase,
            "bag_size": c.bag_size,
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": next((value for key, value in extra.items() if key.startswith("lr/")), None),
            **self.cumulative(step),
            "seconds": seconds,
            "latents_per_second": latents_per_second,
            "data_tokens_per_second": steps * c.data_tokens_per_step / elapsed,
            "mfu": mfu,
            "peak_memory_gib": peak_memory_gib(),
            "expert_load": load,
        }

    def _check_first_loss(self, step: int, loss: float) -> None:
        expected = self.settings.expected_first_loss
        if step != 1 or expected is None or 0.9 * expected <= loss <= 1.2 * expected:
            return
        print(
            f"{self.settings.title}  warning: the first loss is {loss:.3f}, not near {expected:.3f}. A loss near "
            f"{expected / self.settings.bag_size:.3f} would mean a cross-entropy divided by the bag size; a much "
            "larger one, an initialisation that is too wide",
            file=sys.stderr,
            flush=True,
        )

    def _show(self, line: dict[str, Any]) -> None:
        c = self.settings
        now = time.perf_counter()
        last = line["step"] == c.end_step
        if not last and now - self._printed < SECONDS_BETWEEN_LINES:
            return
        self._printed = now
        left = (c.end_step - line["step"]) * c.latents_per_step / line["latents_per_second"]
        mfu = "" if line["mfu"] is None else f"  MFU {line['mfu']:.1%}"
        heldout = f"  held-out {line['heldout_loss']:.4f}" if "heldout_loss" in line else ""
        print(
            f"{c.title}  step {line['step']:,}/{c.end_step:,}  loss {line['loss']:.4f}{heldout}  "
            f"{line['latents_per_second']:,.0f} latents/s  {line['data_tokens_per_second']:,.0f} data tokens/s"
            f"{mfu}  {'done' if last else 'left ' + clock(left)}",
            file=sys.stderr,
            flush=True,
        )


class ExpertLoad:
    """How evenly experts are used: keeps the counts of the latest step before torchtitan's balancing clears them."""

    def __init__(self, model_parts: list[nn.Module], groups: list[dist.ProcessGroup]):
        self.model_parts = model_parts
        self.groups = groups
        self.counts: torch.Tensor | None = None

    @classmethod
    def attach_to(cls, spec: ModelSpec) -> None:
        """Count before the spec's own balancing hook runs (hooks run in the order of their registration)."""
        build = spec.post_optimizer_build_fn

        def build_and_count(optimizers: Any, model_parts: list[nn.Module], parallel_dims: Any) -> None:
            # The ranks whose counts torchtitan's balancing adds up, too.
            spread = parallel_dims.ep_enabled and parallel_dims.tp > 1
            meshes = [parallel_dims.get_optional_mesh(name) for name in (["tp"] if spread else []) + ["loss"]]
            load = cls(model_parts, [mesh.get_group() for mesh in meshes if mesh is not None])
            optimizers.register_step_pre_hook(load.record)
            optimizers.expert_load = load
            if build is not None:
                build(optimizers, model_parts, parallel_dims)

        spec.post_optimizer_build_fn = build_and_count

    @torch.no_grad()
    def record(self, *args: Any) -> None:
        """Copy the counts of this step, shape (layers, experts)."""
        counts = []
        for part in self.model_parts:
            for module in part.modules():
                load = getattr(module, "tokens_per_expert_E", None)
                if load is not None:
                    counts.append(load.to_local() if isinstance(load, DTensor) else load)
        self.counts = torch.stack(counts).float() if counts else None

    def shares(self) -> list[list[float]] | None:
        """Share of each expert among the choices of its layer, over all ranks. Collective."""
        if self.counts is None:
            return None
        counts = self.counts.clone()
        for group in self.groups:
            dist.all_reduce(counts, group=group)
        shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
        return [[round(value, 6) for value in layer] for layer in shares.tolist()]
