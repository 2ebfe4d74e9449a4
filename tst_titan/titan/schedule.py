"""torchtitan's learning-rate schedulers over a stage's part of the run's schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from torchtitan.components.optimizer import LRSchedulersContainer

from tst_titan.config.schema import StageSchedule


class StageLRSchedulers(LRSchedulersContainer):
    """Warm-up, constant and decay placed at absolute steps.

    torchtitan's own schedule is a function of the run's total steps, which a trunk shared by runs of several
    lengths does not know. Where both can express a schedule the values are equal (tested).
    """

    @dataclass(kw_only=True, slots=True)
    class Config(LRSchedulersContainer.Config):
        warmup_start: int = 0
        decay_start: int | None = None
        decay_end: int | None = None
        learning_rate: float = 1.0
        """Peak, for the metrics: groups may have their own."""

        def build(self, *, optimizers: Any, training_steps: int) -> LRSchedulersContainer:
            """Schedulers whose factor is ``StageSchedule.factor`` of the absolute step."""
            del training_steps
            schedule = StageSchedule(
                warmup_start=self.warmup_start,
                warmup_steps=self.warmup_steps,
                decay_start=self.decay_start,
                decay_end=self.decay_end,
                min_factor=self.min_lr_factor,
                shape=cast(Any, self.decay_type),
            )
            schedulers = StageLRSchedulers(optimizers, schedule.factor)
            schedulers.rate = lambda step: self.learning_rate * schedule.factor(step)
            return schedulers

    rate: Callable[[int], float]

    def get_metrics(self) -> dict[str, float]:
        """The learning rate of the next step, before the factors of groups and of Muon."""
        return {"lr/all": self.rate(self.schedulers[0].last_epoch)}


def scheduler_config(schedule: StageSchedule, learning_rate: float = 1.0) -> StageLRSchedulers.Config:
    """The torchtitan config of a stage's schedule."""
    return StageLRSchedulers.Config(
        warmup_start=schedule.warmup_start,
        warmup_steps=schedule.warmup_steps,
        decay_start=schedule.decay_start,
        decay_end=schedule.decay_end,
        min_lr_factor=schedule.min_factor,
        decay_type=schedule.shape,
        learning_rate=learning_rate,
    )
