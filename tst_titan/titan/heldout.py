"""Held-out loss while a stage trains: the same windows at the same steps for every run, and nothing else changed.

torchtitan's validator knows the mean over all of its loader's batches; here every window has a loss, in every layout of
processes, and a bag stage's model is read twice: as a token model and with its own bags.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.components.validate import Validator
from torchtitan.tools import utils

from tst_titan.config.schema import StageConfig
from tst_titan.data.shards import TokenStream
from tst_titan.titan.loader import cut, end_of_text
from tst_titan.tree.heldout import spread
from tst_titan.tree.metrics import MetricsFile

Cut = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _next_tokens(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


class HeldoutLoss(Validator):
    """Measures the held-out loss of a stage and writes heldout.jsonl.

    The forward pass is eager, in evaluation mode and without gradients. It leaves no trace: compiled graphs keep their
    shapes, experts are not counted, gradients stay.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Validator.Config):
        stage: Any = None
        """StageConfig of the stage."""
        manifest: str = ""
        """Path of the corpus's manifest."""
        path: str = ""
        """heldout.jsonl."""
        tokens: int = 0
        points: frozenset[int] = frozenset()
        """Steps of the run after which to measure."""
        known: bool = False
        """The parent has measured these windows with the weights that the stage starts from."""
        sequences: int = 1
        """Data sequences (lanes) in a forward pass."""

    def __init__(self, config: Config, **kwargs: Any):
        super().__init__(config, **kwargs)
        self.stage: StageConfig = config.stage
        self.settings = config
        self.lines = MetricsFile(Path(config.path))
        self.stream = TokenStream.from_manifest(Path(config.manifest), split="heldout")
        available, length = len(self.stream), self.stage.data.sequence_length
        self.windows = spread(available, length, 1, config.tokens)
        self.bags: list[int] = []
        self.eos_id = end_of_text(self.stage, Path(config.manifest))
        if self.stage.superposition is not None:
            advance, lookahead = self.stage.lane_advance, self.stage.lane_lookahead
            self.bags = spread(available, advance, lookahead, max(config.tokens, advance))

    def _cut_bags(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return cut(self.stage, tokens, self.eos_id)

    def should_validate(self, step: int) -> bool:
        """Never where torchtitan would: the trainer asks before a step's checkpoint is written, not after."""
        return False

    def start(self, model: nn.Module, step: int) -> None:
        """Begin or resume after ``step``: drop what a crash left beyond it, and measure unless that was done."""
        known = [False]
        if dist.get_rank() == 0:
            begins = step == self.stage.start_step
            last = self.lines.truncate_after(-1 if begins else step)
            known = [self.settings.known if begins else last is not None and last["step"] == step]
        dist.broadcast_object_list(known)
        if not known[0]:
            self.measure(model, step)

    def measure(self, model: nn.Module, step: int) -> dict[str, Any] | None:
        """Measure, if ``step`` is a point, and write the line. Collective; returns the line on every rank."""
        if step not in self.settings.points:
            return None
        started = time.perf_counter()
        model.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            windows = self._losses(model, self.windows, self.stage.data.sequence_length + 1, _next_tokens)
            bags = None
            if self.bags:
                width = self.stage.lane_advance + self.stage.lane_lookahead
                bags = self._losses(model, self.bags, width, self._cut_bags)
        model.train()
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        metrics: Any = self.metrics_processor
        line = {
            "step": step,
            "phase": self.stage.phase,
            "bag_size": self.stage.bag_size,
            "tokens": self.settings.tokens,
            "token_loss": float(windows.mean()),
            "bag_loss": None if bags is None else float(bags.mean()),
            "windows": [round(loss, 5) for loss in windows.tolist()],
            "seconds": time.perf_counter() - started,
            **metrics.cumulative(step),
        }
        if dist.get_rank() == 0:
            self.lines.append(line)
        return line

    def _losses(self, model: nn.Module, starts: Sequence[int], width: int, cut: Cut) -> np.ndarray:
        """Mean loss of every window over its labels, in nats, shape (windows,), float64; the same on every rank.

        Args:
            model: the decoder, sharded or not.
            starts: first tokens of the windows in the stream.
            width: tokens of a window.
            cut: makes inputs and labels of tokens (sequences, width); each sequence as many rows as any other.
        """
        losses = torch.zeros(len(starts), dtype=torch.float64, device=utils.device_type)
        at_once = self.settings.sequences
        for first in range(
            self.dp_rank * at_once, self._whole_rounds(len(starts)), self.dp_world_size * at_once
        ):
            # Every rank makes as many passes as any other, over windows that are there already if need be.
            mine = [number % len(starts) for number in range(first, first + at_once)]
            tokens = torch.from_numpy(np.stack([self.stream.read(starts[number], width) for number in mine]))
            inputs, labels = cut(tokens.to(utils.device_type))
            inputs, labels, more = self.post_dataloading_process({"input": inputs}, labels, [model])
            with self.validation_context():
                predicted = model(inputs, **more)
                rows = len(labels) // at_once
                for place, number in enumerate(mine):
                    here = slice(place * rows, (place + 1) * rows)
                    total, _ = self.loss_fn(predicted[here], labels[here])
                    if first + place == number:
                        losses[number] = total.detach() / (labels[here] != IGNORE_INDEX).sum()
        if self.parallel_dims.dp_enabled:
            dist.all_reduce(losses, group=self.parallel_dims.get_mesh("batch").get_group())
        return losses.cpu().numpy()

    def _whole_rounds(self, windows: int) -> int:
        per_round = self.dp_world_size * self.settings.sequences
        return -(-windows // per_round) * per_round
