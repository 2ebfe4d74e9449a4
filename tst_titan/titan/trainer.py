"""torchtitan's Trainer, plus what a stage of a longer run needs: hand-over, clean stops, expert load."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist
from torchtitan import trainer as torchtitan_trainer
from torchtitan.trainer import Trainer

from tst_titan.run.processes import STOP_SIGNALS
from tst_titan.titan.checkpoints import StageCheckpoints
from tst_titan.titan.heldout import HeldoutLoss
from tst_titan.titan.initialization import reinitialize_parts
from tst_titan.titan.metrics import StageMetrics


class StageTrainer(Trainer):
    """Runs one stage. The loop, the parallelism and the optimizer are torchtitan's.

    Attributes:
        interrupted: a stop was asked for and a checkpoint written at the step boundary; the stage is not finished.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):
        reinitialize: list[str] = field(default_factory=list)
        """Parts that start anew at the hand-over: embedding, lm_head."""
        stop_file: str = ""
        """A file whose existence asks for a stop; it reaches every node that shares the results."""

    def __init__(self, config: Config):
        super().__init__(config)
        load = getattr(self.optimizers, "expert_load", None)
        if load is not None:
            self.stage_metrics.expert_load = load.shares
        self.interrupted = False
        self._stop_asked = False
        self._stop_group = None
        if dist.get_world_size() > 1:
            # A host-side group: asking all ranks at every step must not wait for the accelerator.
            self._stop_group = dist.new_group(backend="gloo")
        for number in STOP_SIGNALS:
            signal.signal(number, self._ask_to_stop)

    @property
    def stage_metrics(self) -> StageMetrics:
        """The metrics processor with its real type."""
        return cast(StageMetrics, self.metrics_processor)

    @property
    def heldout(self) -> HeldoutLoss | None:
        """What measures the held-out loss; None where nothing does."""
        return cast(HeldoutLoss, self.validator) if self.config.validator.enable else None

    def train(self) -> None:
        """Run the stage's steps."""
        if dist.get_world_size() == 1:
            # torchtitan ends by sleeping two seconds for other ranks, a fifth of the whole of a stage at scale smoke.
            without_sleep: Any = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})
            torchtitan_trainer.time = without_sleep
        super().train()

    def batch_generator(self, data_iterable: Iterable[Any]) -> Iterator[Any]:
        """Called once, between loading and the first step: finish the hand-over and start the clock."""
        checkpoints = cast(StageCheckpoints, self.checkpointer)
        parts = cast(StageTrainer.Config, self.config).reinitialize
        if checkpoints.handed_over and parts:
            reinitialize_parts(parts, self.model_parts[0], self.optimizers, self.config.debug.seed or 0)
        self.stage_metrics.start(self.step)
        if self.heldout is not None:
            self.heldout.start(self.model_parts[0], self.step)
        return super().batch_generator(data_iterable)

    def train_step(self, data_iterator: Iterator[Any]) -> None:
        """One optimizer step, on the clock."""
        self.stage_metrics.begin_step()
        super().train_step(data_iterator)
        self.stage_metrics.end_step()
        measured = None if self.heldout is None else self.heldout.measure(self.model_parts[0], self.step)
        self.stage_metrics.write(measured)

    def should_continue_training(self) -> bool:
        """False after the last step, or after a checkpoint if a stop was asked for."""
        if not super().should_continue_training():
            return False
        if not self._everyone_stops():
            return True
        self.interrupted = True
        if self.step > self.stage_metrics.settings.start_step:
            checkpoints = cast(StageCheckpoints, self.checkpointer)
            checkpoints.save_now(self.step)
        return False

    def parameters_are_finite(self) -> bool:
        """Whether all weights of this rank are finite; saved checkpoints must be."""
        for part in self.model_parts:
            for parameter in part.parameters():
                local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
                if not bool(torch.isfinite(local).all()):
                    return False
        return True

    def _ask_to_stop(self, number: int, frame: Any) -> None:
        self._stop_asked = True

    def _everyone_stops(self) -> bool:
        asked = self._stop_asked
        stop_file = cast(StageTrainer.Config, self.config).stop_file
        if dist.get_rank() == 0 and stop_file and Path(stop_file).exists():
            asked = True
        if self._stop_group is None:
            return asked
        votes = torch.tensor([int(asked)])
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._stop_group)
        return bool(votes.item())
