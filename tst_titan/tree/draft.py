"""From a run's spec to its stages: draft every run, let runs share their trunks, then write the stages down."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tst_titan.config.experiment import BagSpec, RunSpec, ScaleConfig, SizeConfig, StartFrom
from tst_titan.config.load import parse
from tst_titan.config.parallel import check_parallel
from tst_titan.config.schema import (
    DataConfig,
    HandoverConfig,
    ModelConfig,
    OptimizerConfig,
    RecipeOptions,
    RuntimeConfig,
    StageConfig,
)
from tst_titan.config.titan_keys import changes_result
from tst_titan.errors import UserError
from tst_titan.tree.cut import Piece, cut_into_pieces, schedule_of, segment_name
from tst_titan.tree.folder import sha256_of
from tst_titan.tree.start import start_name


class ScaleError(UserError):
    """The scale lacks a size or a length that an experiment is about."""


@dataclass(frozen=True)
class Draft:
    """A run whose pieces may still be cut where other runs branch off.

    Attributes:
        where: names the run in errors.
        recipe: name of what all its stages share.
        pieces: stretches of steps, in order.
        rate: peak learning rate.
        limit: tokens of the corpus that the run may read, None for all.
        options: of scale, size, experiment and run together.
        own_options: a word for those that the run itself gives; empty without.
        start_from: what it begins with, None for new weights.
    """

    name: str
    where: str
    spec: RunSpec
    seed: int
    size_name: str
    size: SizeConfig
    model: ModelConfig
    scale: ScaleConfig
    recipe: str
    rate: float
    limit: int | None
    bags: tuple[BagSpec, ...]
    pieces: tuple[Piece, ...]
    options: RecipeOptions
    own_options: str
    start_from: StartFrom | None = None

    def stages(self) -> Iterator[tuple[str, StageConfig, RuntimeConfig]]:
        """Lineage, config and run-time config of every stage, in order.

        Raises:
            UserError: a stage is inconsistent or its layout of processes cannot work.
        """
        lineage = ""
        parameters = self.model.count_parameters().total
        for piece in self.pieces:
            config = parse(StageConfig, self._stage_content(piece), self.where)
            segment = segment_name(piece, config.handover, self.start)
            lineage = f"{lineage}/{segment}" if lineage else segment
            runtime = self.size.with_heldout_interval(self.size.runtime or self.scale.runtime)
            runtime = runtime.for_model(parameters)
            runtime = runtime.model_copy(
                update={"titan": runtime.titan | _titan(self.options, of_stage=False)}
            )
            check_parallel(config, runtime, self.where)
            yield lineage, config, runtime

    def axes(self) -> dict[str, Any]:
        """What sets the run apart, for the comparison."""
        first = self.bags[0] if self.bags else None
        axes: dict[str, Any] = {
            "bag_size": max((bag.bag_size or 1 for bag in self.bags), default=1),
            "bag_fraction": sum(bag.bag_fraction or 0.0 for bag in self.bags),
            "lr": self.rate,
            "weighting": str(first.weights) if first else "uniform",
            "sides": first.sides if first else "full",
            "width": self.model.dim,
        }
        if first:
            axes["feeding"] = first.feeding
        if self.spec.epochs is not None:
            axes["epochs"] = self.spec.epochs
        if self.own_options:
            axes["options"] = self.own_options
        return axes

    @property
    def start(self) -> str | None:
        """Name of what the run begins with."""
        return None if self.start_from is None else start_name(self.start_from)

    def handover(self, piece: Piece) -> HandoverConfig | None:
        """The run's own hand-over at the switch to tokens, the plain one between other stages."""
        if piece.start == 0:
            return None
        at_switch = piece.bag is None and piece.start == piece.phase_start
        return self.spec.handover if at_switch else HandoverConfig()

    def result_of(self, piece: Piece) -> tuple[Any, ...]:
        """What determines the steps of a piece, besides where it ends; equal for runs that may share them."""
        bag = piece.bag.model_copy(update={"bag_fraction": None}) if piece.bag else None
        schedule = schedule_of(piece, self.size, self.spec, self.options.schedule)
        return (piece.start, bag, schedule, self.handover(piece), self.start)

    def cut_at(self, steps: Iterable[int], only: Callable[[Piece], bool] = lambda piece: True) -> Draft:
        """The same run with stage boundaries at ``steps`` as well, in the pieces that ``only`` picks."""
        pieces = []
        for piece in self.pieces:
            inner = sorted({step for step in steps if piece.start < step < piece.end and only(piece)})
            bounds = [piece.start, *inner, piece.end]
            pieces += [replace(piece, start=a, end=b) for a, b in itertools.pairwise(bounds)]
        return replace(self, pieces=tuple(pieces))

    def cut_where_experiments_meet(self) -> Draft:
        """The same run, cut where the scale says that runs of other experiments may branch off.

        Plain baselines part where the decay of one of the size's lengths begins, plain bag phases at the size's
        ``trunks``. Whatever else an experiment adds, these stages keep their names.
        """
        trunks = self.size.trunks
        if self.options.schedule.kind == "cosine":  # nothing is shared with runs of another length
            cut, lengths = self, {self.pieces[-1].end}
        else:
            decay = self.scale.decay_fraction
            token_cuts = {steps - round(steps * decay) for steps in self.size.steps.values()}
            cut = self.cut_at(token_cuts, lambda piece: piece.bag is None and piece.phase_start == 0)
            lengths = {self.size.steps[length] for length in trunks.lengths} if trunks else set()
        if trunks is None:
            return cut
        bag_cuts = {round(steps * share) for steps in lengths for share in trunks.bag_fraction}
        return cut.cut_at(bag_cuts, lambda piece: piece.phase_start == 0 and _is_plain_bag(piece.bag))

    def _stage_content(self, piece: Piece) -> dict[str, Any]:
        bag = piece.bag
        return {
            "phase": piece.phase,
            "start_step": piece.start,
            "end_step": piece.end,
            "seed": self.seed,
            "precision": self.scale.precision,
            "model": self.model,
            "data": DataConfig(
                corpus=self.size.corpus,
                sequence_length=self.size.sequence_length,
                batch_sequences=self.size.batch_sequences,
                allow_repeat=self.scale.allow_repeat or self.limit is not None,
                limit_tokens=self.limit,
                # The scale's own seed reads the corpus as it lies: one seed's results are those of earlier versions.
                order=0 if self.seed == self.scale.seed else self.seed,
            ),
            "superposition": bag.model_dump(exclude={"bag_fraction"}) if bag else None,
            "optimizer": OptimizerConfig(
                learning_rate=self.rate,
                weight_decay=self.scale.weight_decay,
                max_gradient_norm=self.scale.max_gradient_norm,
                **dict(self.options.optimizer),
            ),
            "schedule": schedule_of(piece, self.size, self.spec, self.options.schedule),
            "handover": self.handover(piece),
            "start_from": self.start if piece.start == 0 else None,
            "titan": _titan(self.options, of_stage=True),
            "documents": {
                "mask_attention": self.options.documents.mask_attention and bag is None,
                "bags_inside": self.options.documents.bags_inside and bag is not None,
            },
        }


def _is_plain_bag(bag: BagSpec | None) -> bool:
    """Whether a bag phase differs from the default one in bag size and length only."""
    return bag is not None and bag.model_copy(update={"bag_size": None, "bag_fraction": None}) == BagSpec()


def share_trunks(drafts: Sequence[Draft]) -> list[Draft]:
    """Cut runs of one recipe where they part, so that what they have in common is trained once.

    A sweep over r at one s then shares one bag trunk, and a longer baseline the trunk of a shorter one.
    """
    families: dict[str, list[Draft]] = {}
    for draft in drafts:
        families.setdefault(draft.recipe, []).append(draft)
    cuts: dict[str, set[int]] = {draft.name: set() for draft in drafts}
    for members in families.values():
        _part(members, 0, cuts)
    return [draft.cut_at(cuts[draft.name]) for draft in drafts]


def _part(members: Sequence[Draft], index: int, cuts: dict[str, set[int]]) -> None:
    """Note where runs that agree in their first ``index`` pieces part, then look at those that go on together."""
    together: dict[tuple[Any, ...], list[Draft]] = {}
    for draft in members:
        if index < len(draft.pieces):
            together.setdefault(draft.result_of(draft.pieces[index]), []).append(draft)
    for same in together.values():
        ends = sorted({draft.pieces[index].end for draft in same})
        for draft in same:
            own = draft.pieces[index].end
            # All that go further part from it at its end; it parts from the shorter ones at theirs.
            cuts[draft.name] |= {end for end in ends if end <= own}
        for end in ends:
            going_on = [draft for draft in same if draft.pieces[index].end == end]
            if len(going_on) > 1:
                _part(going_on, index + 1, cuts)


@dataclass(frozen=True)
class Drafter:
    """Turns specs into drafts at one scale."""

    scale: ScaleConfig
    scale_name: str
    default_size: str
    models: Mapping[str, ModelConfig]
    options: RecipeOptions
    """The experiment's."""
    start_from: StartFrom | None = None

    def draft(self, name: str, spec: RunSpec, seed: int, where: str) -> Draft:
        """One run.

        Raises:
            ScaleError: the scale lacks the size or the length.
            UserError: a phase of the run is empty, or its warm-up longer than the run.
        """
        size_name = spec.size or self.default_size
        size = self._size(size_name, where)
        steps = self._total_steps(size, spec, where)
        bags = tuple(self._with_defaults(bag, size) for bag in spec.bags)
        if spec.fixed_data:
            steps, bags = _on_fixed_data(steps, bags)
        rate = spec.learning_rate or size.learning_rate * spec.learning_rate_times
        limit = None
        if spec.epochs is not None:
            limit = round(steps * size.batch_sequences * size.sequence_length / spec.epochs)
        general = self.scale.under(size)
        options = general.under(self.options, spec)
        decay_fraction = self.scale.decay_fraction
        recipe = self._recipe_name(size_name, size, rate, seed, limit, _said_of(options, general))
        if size.warmup_steps > steps:
            raise UserError(
                f"{where}: key warmup_steps: found {size.warmup_steps}, more than the {steps} steps of the run"
            )
        if options.schedule.kind == "cosine":
            _check_cosine(steps, size, spec, where)
            decay_fraction = 0.0
            recipe = f"{recipe}-cosine{steps}"
        pieces = cut_into_pieces(steps, bags, decay_fraction, spec, where)
        draft = Draft(
            name=name,
            where=where,
            spec=spec,
            seed=seed,
            size_name=size_name,
            size=size,
            model=self.models[size_name],
            scale=self.scale,
            recipe=recipe,
            rate=rate,
            limit=limit,
            bags=bags,
            pieces=tuple(pieces),
            start_from=spec.start_from or self.start_from,
            options=options,
            own_options=_said_of(options, general.under(self.options)),
        )
        return draft.cut_where_experiments_meet()

    @cached_property
    def _first_name(self) -> Mapping[str, str]:
        """Sizes by name, each under the first one that trains alike: large as medium shares medium's stages."""
        known: dict[str, str] = {}
        for name, size in self.scale.sizes.items():
            content = size.model_dump_json(exclude={"steps", "tst", "trunks"})
            known.setdefault(content, name)
            known[name] = known[content]
        return known

    def _size(self, name: str, where: str) -> SizeConfig:
        sizes: Mapping[str, SizeConfig] = self.scale.sizes  # type: ignore[assignment]
        if name not in sizes:
            raise ScaleError(f"{where}: size {name!r} is not defined; the scale has: {', '.join(sizes)}")
        return sizes[name]

    def _total_steps(self, size: SizeConfig, spec: RunSpec, where: str) -> int:
        if spec.length not in size.steps:
            known = ", ".join(f"{key} ({value})" for key, value in size.steps.items())
            raise ScaleError(f"{where}: key length: found {spec.length!r}; this size has: {known}")
        return round(size.steps[spec.length] * spec.times)

    def _with_defaults(self, bag: BagSpec, size: SizeConfig) -> BagSpec:
        return bag.model_copy(
            update={
                "bag_size": bag.bag_size or size.tst.bag_size,
                "bag_fraction": bag.bag_fraction or size.tst.bag_fraction,
            }
        )

    def _recipe_name(
        self, size_name: str, size: SizeConfig, rate: float, seed: int, limit: int | None, options: str
    ) -> str:
        parts = [self.scale_name, self._first_name[size_name]]
        if rate != size.learning_rate:
            parts.append(f"lr{rate:.3g}")
        if limit is not None:
            parts.append(f"limit{limit}")
        if options:
            parts.append(options)
        if seed != self.scale.seed:
            parts.append(f"seed{seed}")
        return "-".join(parts)


def _said_of(options: RecipeOptions, general: RecipeOptions) -> str:
    """A word for options that differ from those of scale and size: their keys and a hash; empty if none does."""
    given, usual = (
        {**each.model_dump(mode="json"), "titan": _titan(each, of_stage=True)} for each in (options, general)
    )
    changed = {key: value for key, value in given.items() if value != usual[key]}
    return "_".join(changed) + sha256_of(json.dumps(changed, sort_keys=True))[:6] if changed else ""


def _titan(options: RecipeOptions, of_stage: bool) -> dict[str, Any]:
    """The keys of torchtitan's that a stage's identity covers, or those that it does not, in one order."""
    return {key: value for key, value in sorted(options.titan.items()) if changes_result(key) == of_stage}


def _check_cosine(steps: int, size: SizeConfig, spec: RunSpec, where: str) -> None:
    def refuse(key: str, found: object, valid: str) -> None:
        raise UserError(f"{where}: key {key}: found {found}; with schedule.kind cosine {valid}")

    if size.warmup_steps >= steps:
        refuse("warmup_steps", size.warmup_steps, f"it must be less than the {steps} steps of the run")
    if spec.phase_decay:
        refuse("phase_decay", "true", "one curve spans the run: leave it out, or use wsd")
    if spec.decay_times != 1:
        refuse("decay_times", spec.decay_times, "the whole run decays: leave it out, or use wsd")


def _on_fixed_data(steps: int, bags: Sequence[BagSpec]) -> tuple[int, tuple[BagSpec, ...]]:
    """Steps and bag phases of a run that reads as many tokens as ``steps`` plain steps.

    A bag step reads s times the data of a token step, so a share f of the data takes f / s of the steps.
    """
    of_bags = [round(steps * (bag.bag_fraction or 0) / bag.tokens_per_latent) for bag in bags]
    total = sum(of_bags) + round(steps * (1 - sum(bag.bag_fraction or 0 for bag in bags)))
    shares = [taken / total for taken in of_bags]
    return total, tuple(
        bag.model_copy(update={"bag_fraction": share}) for bag, share in zip(bags, shares, strict=True)
    )
