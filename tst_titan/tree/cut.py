"""Cut a run's steps into stages, and name the stages by what sets them apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tst_titan.config.experiment import BagSpec, RunSpec, SizeConfig
from tst_titan.config.schema import HandoverConfig, ScheduleOptions, StageSchedule
from tst_titan.errors import UserError
from tst_titan.tree.start import FROM


@dataclass(frozen=True)
class Piece:
    """A stretch of steps with one bag spec and one part of the schedule."""

    start: int
    end: int
    bag: BagSpec | None
    decaying: bool
    phase_start: int
    decay_start: int
    decay_end: int

    @property
    def phase(self) -> str:
        """bag, token or decay; bags that decay are still phase bag."""
        if self.bag is not None:
            return "bag"
        return "decay" if self.decaying else "token"


def cut_into_pieces(
    steps: int, bags: Sequence[BagSpec], decay_fraction: float, spec: RunSpec, where: str
) -> Iterator[Piece]:
    """Cut a run of ``steps`` steps where the bag changes and where the decay begins; each piece is one stage.

    A run whose decay is longer or shorter than the scale's ends later or sooner; its trunk is the same.
    """
    decay_steps = round(steps * decay_fraction)
    trunk = steps - decay_steps
    total = trunk + round(decay_steps * spec.decay_times)
    ends: list[tuple[int, BagSpec | None]] = []
    reached = 0.0
    for given in bags:
        assert given.bag_fraction is not None  # defaults are filled in before
        reached += given.bag_fraction
        ends.append((round(steps * reached), given))
    if reached > 1 + 1e-9:
        raise UserError(f"{where}: key bag_fraction: the bag phases take {reached:g} of the steps; at most 1")
    if not ends or ends[-1][0] < steps:
        ends.append((total, None))
    if len(ends) > 1 and ends[-1][1] is None and ends[-2][0] > trunk and not spec.phase_decay:
        raise UserError(
            f"{where}: key bag_fraction: found {reached:g} in all; the bags then end at step {ends[-2][0]}, inside the "
            f"decay, which begins at step {trunk}; give at most {1 - decay_fraction:g}, or 1 for bags to the end"
        )
    start = 0
    bag: BagSpec | None
    for end, bag in ends:
        if end <= start:
            raise UserError(
                f"{where}: key bag_fraction: a phase from step {start} to step {end} is empty; "
                f"with {steps} steps give every bag phase at least one step and leave the token phase at least one"
            )
        decay_start, decay_end = trunk, total
        if spec.phase_decay:
            decay_start, decay_end = end - round((end - start) * decay_fraction), end
        for piece_start, piece_end in ((start, min(end, decay_start)), (max(start, decay_start), end)):
            if piece_end > piece_start:
                decaying = piece_start >= decay_start
                yield Piece(piece_start, piece_end, bag, decaying, start, decay_start, decay_end)
        start = end


def schedule_of(piece: Piece, size: SizeConfig, spec: RunSpec, options: ScheduleOptions) -> StageSchedule:
    """The learning-rate factor over a piece: the scale's warm-up, or a new one after the switch, and the decay."""
    warmup_start, warmup_steps = 0, size.warmup_steps
    if piece.bag is None and piece.phase_start > 0 and spec.handover.rewarm_steps:
        warmup_start, warmup_steps = piece.phase_start, spec.handover.rewarm_steps
    cosine = options.kind == "cosine"
    decay_start, decay_end = (piece.decay_start, piece.decay_end) if piece.decaying else (None, None)
    if cosine:
        decay_start, decay_end = size.warmup_steps, piece.decay_end
    return StageSchedule(
        warmup_start=warmup_start,
        warmup_steps=warmup_steps,
        decay_start=decay_start,
        decay_end=decay_end,
        min_factor=options.min_factor if decay_end else 0.0,
        shape="cosine" if cosine else "linear",
    )


def segment_name(piece: Piece, handover: HandoverConfig | None, start: str | None = None) -> str:
    """``bag6-6000``, ``token-18000``, ``decay-20000``, with a suffix for every option that is not the default.

    Args:
        piece: which steps.
        handover: None for the first piece of a run.
        start: name of what the run starts from; the first segment ends with it.
    """
    bag_name = f"bag{piece.bag.bag_size}" + ("decay" if piece.decaying else "") if piece.bag else None
    name = bag_name or piece.phase
    suffixes = []
    if piece.bag is not None:
        defaults = BagSpec()
        for key in ("sides", "weights", "loss", "feeding"):
            value = getattr(piece.bag, key)
            if value != getattr(defaults, key):
                suffixes.append(value if isinstance(value, str) else "w" + _numbers(value))
        law = piece.bag.mutual_information
        suffixes += [_numbers((law.c0, law.a, law.k))] if law != defaults.mutual_information else []
    if handover is not None:
        suffixes += ["model_only"] if handover.load == "model_only" else []
        suffixes += ["reinit_" + "_".join(handover.reinitialize)] if handover.reinitialize else []
        suffixes += [f"rewarm{handover.rewarm_steps}"] if handover.rewarm_steps else []
    if start is not None and piece.start == 0:
        suffixes.append(FROM + start)
    return "-".join([f"{name}-{piece.end}", *suffixes])


def _numbers(values: Iterable[float]) -> str:
    """Numbers as a part of a path."""
    return "_".join(f"{value:g}" for value in values)
