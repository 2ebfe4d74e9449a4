"""Batches for torchtitan from the lanes of a corpus, in windows of whatever length the phase needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.tokenizer import BaseTokenizer

from tst_titan.config.schema import DataConfig, StageConfig
from tst_titan.data.lanes import Lanes
from tst_titan.data.manifest import load_manifest
from tst_titan.data.shards import TokenStream
from tst_titan.superposition import bag_labels
from tst_titan.superposition.documents import FILLER, bags_inside_documents, positions_in_documents

Batch = tuple[dict[str, torch.Tensor], torch.Tensor]


def cut(
    stage: StageConfig, tokens: torch.Tensor, eos_id: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of the tokens that a stage reads from its lanes at one step.

    Args:
        stage: says how long sequences are and what their bags are.
        tokens: int64, shape (lanes, stage.lane_advance + stage.lane_lookahead).
        eos_id: closes a document; needed where bags stay inside documents, whose filler is -100.

    Returns:
        For plain tokens inputs and labels (B, L); with bags inputs (B, L, s) or (B, L) and labels (B, L, s) or (B, L),
        where B = lanes * stage.sequences_per_lane. labels[b, j] is the bag that follows input j.
    """
    step = stage.lane_advance // stage.sequences_per_lane
    sequences = tokens.unfold(1, step + stage.lane_lookahead, step).flatten(0, 1)
    if stage.superposition is None:
        return sequences[:, :-1].contiguous(), sequences[:, 1:].contiguous()
    if stage.documents.bags_inside:
        assert eos_id is not None
        bags = bags_inside_documents(sequences, stage.latents_per_sequence + 1, stage.bag_size, eos_id)
        following = bags[:, 1:]
        inputs = bags[:, :-1]
        labels = following[..., 0] if stage.superposition.sides == "input_only" else following
        return inputs.contiguous(), labels.contiguous()
    inputs, labels = bag_labels(sequences, stage.bag_size, stage.superposition.sides)
    return inputs.contiguous(), labels.contiguous()


class LaneLoader(BaseDataLoader):
    """Reads this rank's lanes; its state is the position, in tokens read per lane.

    The position is the same on every rank and means the same for every bag size, so a checkpoint continues on
    another number of ranks (torchtitan's own loader refuses that).

    Attributes:
        left_out: tokens that the run has read so far and that no input held, over all lanes, as of the last state:
            where bags stay inside documents, those that no longer fit behind the filled ones.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        cuts_bags: ClassVar[bool] = True
        stage: Any = None
        """StageConfig of the stage."""
        manifest: str = ""
        """Path of the corpus's manifest."""

    def __init__(
        self,
        config: Config,
        *,
        dp_world_size: int,
        dp_rank: int,
        local_batch_size: int,
        **_: Any,
    ):
        self.stage: StageConfig = config.stage
        stage = self.stage
        self.lanes = open_lanes(Path(config.manifest), stage.data)
        lanes_per_rank = stage.data.batch_sequences // dp_world_size
        first = dp_rank * lanes_per_rank
        per_micro_batch = local_batch_size // stage.sequences_per_lane
        self.micro_batches = [
            range(start, start + per_micro_batch)
            for start in range(first, first + lanes_per_rank, per_micro_batch)
        ]
        self.position = 0
        self.eos_id = end_of_text(stage, Path(config.manifest))
        self.left_out = 0
        self._left_out = 0  # by this rank since then
        self._ranks = dp_world_size

    def __iter__(self) -> Iterator[Batch]:
        """Micro-batches, endlessly: all of a step's, then the next step's."""
        length = self.stage.lane_advance + self.stage.lane_lookahead
        while True:
            for number, lanes in enumerate(self.micro_batches, start=1):
                tokens = torch.from_numpy(self.lanes.read(self.position, length, lanes))
                # Moved on before the yield: a checkpoint after this step must hold the next step's position.
                if number == len(self.micro_batches):
                    self.position += self.stage.lane_advance
                inputs, labels = cut(self.stage, tokens, self.eos_id)
                batch = {"input": inputs}
                if self.stage.documents.bags_inside:
                    self._left_out += len(lanes) * self.stage.lane_advance - int((inputs != FILLER).sum())
                if self.stage.documents.mask_attention:
                    assert self.eos_id is not None
                    batch["positions"] = positions_in_documents(inputs, self.eos_id)
                yield batch, labels

    def state_dict(self) -> dict[str, Any]:
        """The position, the same on every rank, and what filled bags left out; called on all ranks together."""
        if not self.stage.documents.bags_inside:
            return {"position": self.position}
        left_out = self._left_out
        if dist.is_initialized():
            counts = [0] * dist.get_world_size()
            dist.all_gather_object(counts, left_out)
            left_out = (
                sum(counts) * self._ranks // len(counts)
            )  # ranks of one tensor-parallel group counted the same
        self.left_out, self._left_out = self.left_out + left_out, 0
        return {"position": self.position, "left_out": self.left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a position."""
        if state_dict:
            self.position = int(state_dict["position"])
            self.left_out = int(state_dict.get("left_out", 0))


def end_of_text(stage: StageConfig, manifest: Path) -> int | None:
    """Id that closes a document, for stages to which documents mean something; None for the others."""
    aware = stage.documents.mask_attention or stage.documents.bags_inside
    return load_manifest(manifest).tokenizer.eos_id if aware else None


def open_lanes(manifest: Path, data: DataConfig) -> Lanes:
    """The lanes of a stage's corpus.

    Raises:
        UserError: a shard is missing or truncated, or the corpus is smaller than the lanes.
    """
    return Lanes(
        TokenStream.from_manifest(manifest, split="train"),
        n_lanes=data.batch_sequences,
        allow_repeat=data.allow_repeat,
        limit_tokens=data.limit_tokens,
        order=data.order,
    )


class NoTokenizer(BaseTokenizer):
    """torchtitan builds a tokenizer whether or not it is used; the shards hold token ids already."""

    @dataclass(kw_only=True, slots=True)
    class Config(BaseTokenizer.Config):
        pass

    def __init__(self, config: Config, *, tokenizer_path: str = "", **_: Any):
        super().__init__()

    def encode(self, *args: Any, **kwargs: Any) -> list[int]:
        """Never called by training."""
        raise RuntimeError("training reads token shards; there is nothing to encode")

    def decode(self, *args: Any, **kwargs: Any) -> str:
        """Never called by training."""
        raise RuntimeError("training reads token shards; there is nothing to decode")

    def get_vocab_size(self) -> int:
        """Never called by training."""
        raise RuntimeError("the vocabulary's size is a value of the model's config")
