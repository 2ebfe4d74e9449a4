"""The learning rate across stage boundaries."""

import pytest
import torch

from tst_titan.config.schema import StageSchedule
from tst_titan.titan import cpu

cpu.prepare()

from torchtitan.components.optimizer import LRSchedulersContainer  # noqa: E402

from tst_titan.titan.schedule import scheduler_config  # noqa: E402


class Optimizers(list):
    """What torchtitan's schedulers iterate over."""


def rates(config, steps: int) -> list[float]:
    """Learning rates that an optimizer of rate 1 sees."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedulers = config.build(optimizers=Optimizers([optimizer]), training_steps=steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedulers.step()
    return seen


def test_equals_torchtitans_wsd_schedule():
    steps, warmup, decay = 50, 7, 10
    own = StageSchedule(warmup_steps=warmup, decay_start=steps - decay, decay_end=steps)
    stock = LRSchedulersContainer.Config(
        warmup_steps=warmup, total_steps=steps, decay_ratio=decay / steps, decay_type="linear"
    )
    assert rates(scheduler_config(own), steps) == pytest.approx(rates(stock, steps), abs=1e-12)


def test_hand_computed_values():
    schedule = StageSchedule(warmup_steps=2, decay_start=6, decay_end=10)
    assert [schedule.factor(i) for i in range(10)] == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_trunk_and_decay_stage_join_into_one_schedule():
    trunk = StageSchedule(warmup_steps=3)
    decay = StageSchedule(warmup_steps=3, decay_start=12, decay_end=16)
    assert [trunk.factor(i) for i in range(12)] == [decay.factor(i) for i in range(12)]
    assert trunk.factor(10**6) == 1.0


def test_a_new_warmup_after_the_switch():
    schedule = StageSchedule(warmup_start=10, warmup_steps=4)
    assert [schedule.factor(i) for i in (9, 10, 11, 13, 14)] == [1.0, 0.25, 0.5, 1.0, 1.0]


def test_min_factor_is_the_floor():
    schedule = StageSchedule(warmup_steps=0, decay_start=0, decay_end=4, min_factor=0.2)
    assert schedule.factor(2) == pytest.approx(0.6)
    assert schedule.factor(4) == pytest.approx(0.2)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_equals_torchtitans_cosine_schedule(floor):
    steps, warmup = 50, 7
    own = StageSchedule(
        warmup_steps=warmup, decay_start=warmup, decay_end=steps, shape="cosine", min_factor=floor
    )
    stock = LRSchedulersContainer.Config(
        warmup_steps=warmup, total_steps=steps, decay_type="cosine", min_lr_factor=floor
    )
    assert rates(scheduler_config(own), steps) == pytest.approx(rates(stock, steps), abs=1e-12)


def test_a_new_warmup_multiplies_a_cosine():
    whole = {"warmup_steps": 2, "decay_start": 2, "decay_end": 22, "shape": "cosine"}
    plain, again = StageSchedule(**whole), StageSchedule(**whole | {"warmup_start": 10})
    assert [again.factor(i) / plain.factor(i) for i in (9, 10, 11, 12)] == [1.0, 0.5, 1.0, 1.0]
