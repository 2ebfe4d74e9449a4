"""Data order: the stream cut into equal lanes, one for each sequence of the global batch.

Sequence i of every batch reads on in lane i, window after window of whatever length its phase needs.
The data position of a run is therefore one integer, the tokens read per lane so far; it means the same for
every bag size and every number of ranks. Another order of the data begins every lane at another place.
"""

import hashlib

import numpy as np

from tst_titan.data.manifest import DataManifest
from tst_titan.data.shards import TokenStream
from tst_titan.errors import UserError


class Lanes:
    """`n_lanes` equal lanes over a stream; the tokens left over at the stream's end are not read.

    Args:
        stream: the tokens of all shards.
        n_lanes: sequences in a global batch.
        allow_repeat: go back to a lane's beginning after its end, instead of raising.
        limit_tokens: cut only the stream's first tokens into lanes.
        order: which order; in 0 every lane begins at its first token, in any other at a place drawn for that lane and
            order, and goes on at its first token after its last one.

    Raises:
        UserError: `n_lanes` < 1 or the stream has fewer tokens than lanes.
    """

    def __init__(
        self,
        stream: TokenStream,
        n_lanes: int,
        allow_repeat: bool = False,
        limit_tokens: int | None = None,
        order: int = 0,
    ):
        if n_lanes < 1:
            raise UserError(f"a batch needs at least 1 sequence, found {n_lanes}")
        tokens = len(stream) if limit_tokens is None else min(len(stream), limit_tokens)
        if tokens < n_lanes:
            raise UserError(f"{tokens:,} tokens cannot be cut into {n_lanes:,} lanes")
        self.stream = stream
        self.n_lanes = n_lanes
        self.allow_repeat = allow_repeat
        self.lane_length = tokens // n_lanes
        self._begins = [_begin(order, lane) % self.lane_length for lane in range(n_lanes)]

    def read(
        self,
        position: int,
        length: int,
        lanes: slice | range | None = None,
        dtype: np.dtype | type = np.int64,
    ) -> np.ndarray:
        """Tokens [position, position + length) of each lane: a fresh array (lanes, length) of type `dtype`.

        Args:
            position: tokens read per lane so far, over all epochs.
            length: tokens to read from each lane.
            lanes: the lanes of this rank, all of them by default.
            dtype: type of the result; int64 is what embedding look-ups take.

        Raises:
            UserError: the lanes end before the window and repetition is not allowed.
        """
        if position < 0 or length < 0:
            raise ValueError(f"position {position} and length {length} must not be negative")
        if position + length > self.lane_length and not self.allow_repeat:
            raise UserError(_too_few(position + length, self.lane_length, self.n_lanes, len(self.stream)))
        if lanes is None:
            lanes = slice(None)
        chosen = range(self.n_lanes)[lanes] if isinstance(lanes, slice) else lanes
        out = np.empty((len(chosen), length), dtype)
        for row, lane in zip(out, chosen, strict=True):
            self._read_lane(lane, position, row)
        return out

    def _read_lane(self, lane: int, position: int, row: np.ndarray) -> None:
        if not 0 <= lane < self.n_lanes:
            raise IndexError(f"lane {lane} is not among {self.n_lanes} lanes")
        done, length = 0, len(row)
        while done < length:
            offset = (self._begins[lane] + position + done) % self.lane_length
            piece = min(length - done, self.lane_length - offset)
            self.stream.read_into(lane * self.lane_length + offset, row[done : done + piece])
            done += piece

    def epochs(self, position: int) -> float:
        """Passes over the data when `position` tokens of each lane have been read."""
        return position / self.lane_length

    def unique_tokens(self, position: int) -> int:
        """Distinct tokens of the corpus read at `position`, over all lanes."""
        return min(position, self.lane_length) * self.n_lanes


def _begin(order: int, lane: int) -> int:
    """Where a lane begins, before the lane's length is known: the same in every version of every library."""
    if not order:
        return 0
    return int.from_bytes(hashlib.blake2b(f"{order} {lane}".encode(), digest_size=8).digest())


def needed_per_lane(position: int, steps: int, advance: int, window: int) -> int:
    """Tokens per lane that a stage needs: the end of its last window.

    Args:
        position: tokens read per lane before the stage.
        steps: optimizer steps of the stage.
        advance: tokens by which a step moves on in each lane (s * L in the bag phase, L in the token phase).
        window: tokens that a step reads in each lane (s * (L + 1), L + 1).
    """
    return position if steps < 1 else position + (steps - 1) * advance + window


def check_enough(
    manifest: DataManifest, needed: int, n_lanes: int, allow_repeat: bool, run: str = "the run"
) -> None:
    """Refuse a run that would read past the end of the corpus, before anything is trained.

    Args:
        manifest: the corpus.
        needed: tokens per lane at the end of the run's last window (`needed_per_lane`).
        n_lanes: sequences in a global batch.
        allow_repeat: whether the config asks for repetition.
        run: how to call the run in the message.

    Raises:
        UserError: with the tokens needed and the tokens there.
    """
    tokens = manifest.train.tokens
    lane_length = tokens // n_lanes
    if lane_length < 1:
        raise UserError(
            f"corpus {manifest.corpus}: {run} reads {n_lanes:,} sequences a batch, but the corpus has only "
            f"{tokens:,} training tokens"
        )
    if needed > lane_length and not allow_repeat:
        raise UserError(f"corpus {manifest.corpus}: {run}: {_too_few(needed, lane_length, n_lanes, tokens)}")


def _too_few(needed: int, lane_length: int, n_lanes: int, tokens: int) -> str:
    return (
        f"too few tokens: {needed * n_lanes:,} are needed ({needed:,} in each of {n_lanes:,} lanes), "
        f"there are {tokens:,} ({lane_length:,} a lane); use a larger corpus or fewer steps, or allow "
        "repetition in the config"
    )
