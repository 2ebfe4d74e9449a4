"""Which rows of the vocabulary a tensor-parallel rank holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, slots=True)
class VocabShard:
    """Entries [start, end) of a vocabulary of ``vocab_size``; the ranks of ``group`` hold the others.

    ``group`` may be None where only the local part is wanted (the bag embedding never communicates).
    Raises ValueError for a shard that is empty or not inside the vocabulary.
    """

    start: int
    end: int
    vocab_size: int
    group: dist.ProcessGroup | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= self.vocab_size:
            raise ValueError(
                f"vocabulary shard: [{self.start}, {self.end}) is not valid; "
                f"it must be a part, not empty, of [0, {self.vocab_size})"
            )

    @classmethod
    def of_group(cls, vocab_size: int, group: dist.ProcessGroup) -> VocabShard:
        """The calling rank's shard, cut as DTensor's ``Shard(0)`` cuts.

        Every rank holds ceil(vocab_size / ranks) entries, the last one what is left. Raises ValueError
        where that leaves the calling rank nothing.
        """
        size = -(-vocab_size // dist.get_world_size(group))
        start = min(vocab_size, dist.get_rank(group) * size)
        return cls(start=start, end=min(vocab_size, start + size), vocab_size=vocab_size, group=group)

    @property
    def size(self) -> int:
        """Number of entries held here."""
        return self.end - self.start

    def local(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Local row of every id, and a mask of those held here; an id held elsewhere gets some valid row.

        Those rows are spread over the shard, so that no single row is read and written by all strangers.
        """
        held = (ids >= self.start) & (ids < self.end)
        return (ids - self.start).remainder_(self.size), held

    def all_reduce(self, values: torch.Tensor, op: dist.ReduceOp.RedOpType) -> torch.Tensor:
        """Reduce ``values`` in place over the group's ranks and return them; without a group, as they are."""
        if self.group is not None:
            dist.all_reduce(values, op=op, group=self.group)
        return values
