"""Every variant of a bag stage through torchtitan's trainer: the first loss against the formulas in float64."""

import os
from math import log
from typing import Any

import pytest
import torch

from tests.stages import Tree
from tst_titan.config.schema import MutualInformationLaw
from tst_titan.titan import cpu

cpu.prepare()

from tst_titan.superposition import target_weights  # noqa: E402
from tst_titan.titan.job import Job  # noqa: E402
from tst_titan.titan.metrics import StageMetrics  # noqa: E402
from tst_titan.titan.train import one_process_defaults  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "input_only": {"sides": "input_only"},
    "output_only": {"sides": "output_only"},
    "power": {"weights": "power"},
    "exponential": {"weights": "exponential"},
    "first": {"weights": "first"},
    "mutual_information": {"weights": "mutual_information"},
    "list": {"weights": (3.0, 1.0, 0.0, 1.0)},
    "mce_alt": {"loss": "mce_alt"},
    "hinge": {"loss": "hinge"},
    "bce": {"loss": "bce"},
    "more_sequences": {"feeding": "more_sequences"},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    had = set(os.environ)
    one_process_defaults()
    yield Tree.make(tmp_path_factory.mktemp("results"))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in set(os.environ) - had:
        del os.environ[name]


def naive_loss(name: str, logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over latents; logits (N, V) float64, labels (N, s)."""
    log_p = logits.log_softmax(-1)
    chosen = log_p.gather(1, labels)
    bags = torch.zeros_like(logits).scatter_(1, labels, 1.0)
    if name == "mce":
        return -(chosen * weights).sum(1).mean()
    if name == "mce_alt":
        return -(log_p.exp() * bags).sum(1).log().mean()
    if name == "bce":
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, bags)
    return torch.relu(1 - (2 * bags - 1) * logits).mean()


@pytest.mark.parametrize(
    ("step", "loss", "warns"),
    [(1, log(64), False), (1, 1.25 * log(64), True), (1, log(64) / 4, True), (2, log(64) / 4, False)],
)
def test_a_first_loss_far_from_ln_v_names_the_likely_cause(capsys, step, loss, warns):
    metrics = StageMetrics.__new__(StageMetrics)
    metrics.settings = StageMetrics.Config(title="run", bag_size=4, expected_first_loss=log(64))
    metrics._check_first_loss(step, loss)
    said = capsys.readouterr().err
    assert ("near 1.040 would mean a cross-entropy divided by the bag size" in said) == warns


@pytest.mark.parametrize("name", VARIANTS)
def test_the_first_loss_follows_the_formula(tree, name):
    changes = {"bag_size": 4, **VARIANTS[name]}
    folder = tree.stage(f"bag4-5-{name}", superposition=changes)
    trainer = Job(folder, "0" * 64, None, "test").trainer_config().build()
    (batch, labels) = next(iter(trainer.dataloader))
    with torch.no_grad():
        logits = trainer.model_parts[0](batch["input"]).flatten(0, 1).double()
    flat = labels.reshape(logits.shape[0], -1)
    kind = changes.get("weights", "uniform")
    weights = (
        target_weights(kind, 4, law=MutualInformationLaw()).double()
        if flat.shape[1] == 4
        else torch.ones(1, dtype=torch.float64)
    )
    expected = naive_loss(changes.get("loss", "mce"), logits, flat, weights).item()
    trainer.dataloader.position = 0
    seen = []
    trainer.metrics_processor.log = lambda step, loss, *rest, **more: seen.append(loss)
    trainer.step = 1
    trainer.train_step(trainer.batch_generator(trainer.dataloader))
    trainer.close()
    assert seen == [pytest.approx(expected, rel=1e-5)]
    if changes.get("loss", "mce") == "mce":
        assert 0.9 * log(64) < seen[0] < 1.2 * log(64)
    rows = 4 * (4 if name == "more_sequences" else 1)
    length = 16 // (4 if name == "more_sequences" else 1)
    assert batch["input"].shape == ((rows, length) if name == "output_only" else (rows, length, 4))
