"""Held-out loss during training: after which steps it is measured, and on which windows."""

from __future__ import annotations

from tst_titan.config.schema import HeldoutConfig, StageConfig
from tst_titan.errors import UserError

MOST_TOKENS = 1 << 20
# Of the latents trained between two measurements. A forward pass is a third of a step; with the measurements around a
# switch and the bag loss beside them a run spends 5 % of its time (docs/evaluation.md).
SHARE_OF_TRAINING = 1 / 11


def measured_at(start: int, end: int, every: int | None, switched: bool) -> frozenset[int]:
    """Steps after which a stage measures: its first and last, every ``every``-th of the run, and more after a switch.

    Args:
        start: steps done in the run when the stage begins.
        end: the same when it ends.
        every: regular spacing, None for none.
        switched: the stage before it read bags of another size; measured 1, 2, 4, 8... steps after the start, until the
            regular spacing takes over.
    """
    points = {start, end}
    if every is not None:
        points.update(range(start - start % every, end, every))
    if switched:
        points.update(start + (1 << power) for power in range((every or end - start).bit_length()))
    return frozenset(point for point in points if start <= point <= end)


def spread(available: int, advance: int, lookahead: int, tokens: int) -> list[int]:
    """First tokens of non-overlapping windows spread evenly over a stream: as many as hold ``tokens`` inputs.

    With ``tokens`` for all of them these are the windows that ``tst-titan evaluate heldout`` cuts, except that it has a
    last one of what is left.

    Args:
        available: tokens of the stream.
        advance: tokens between the beginnings of two neighbours.
        lookahead: tokens beyond ``advance`` that a window needs for its last targets.
        tokens: to score at most.
    """
    there = max(0, (available - lookahead) // advance)
    chosen = min(there, tokens // advance)
    return [number * there // chosen * advance for number in range(chosen)]


def tokens_to_score(config: HeldoutConfig, stage: StageConfig, available: int) -> int:
    """Held-out tokens that a measurement scores; 0 where the hold-out has no whole window and nothing was asked for.

    Raises:
        UserError: less than a window, or more than the hold-out has, was asked for.
    """
    length = stage.data.sequence_length
    if config.tokens is None:
        every = config.every or stage.end_step - stage.start_step
        affordable = int(every * stage.latents_per_step * SHARE_OF_TRAINING)
        return max(0, min(available - 1, max(length, min(affordable, MOST_TOKENS)))) // length * length
    if length <= config.tokens < available:
        return config.tokens // length * length
    raise UserError(
        f"key runtime.heldout.tokens: found {config.tokens:,}; the hold-out of corpus {stage.data.corpus} has "
        f"{available:,} tokens and a window {length:,}, so valid are {length:,} to {available - 1:,}, none for as many "
        "as are worth it, and `heldout: null` to measure nothing"
    )
