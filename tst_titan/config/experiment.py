"""What users write: the project file, scales and experiments (configs/)."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from tst_titan.config.comparison import ComparisonOptions
from tst_titan.config.schema import BagOptions, HandoverConfig, Precision, RecipeOptions, RuntimeConfig
from tst_titan.config.strict import (
    Float,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Steps,
    Strict,
)
from tst_titan.superposition.bags import Sides
from tst_titan.superposition.weights import WeightKind

Size = Literal["small", "medium", "large", "moe"]
Kind = Literal[
    "pair",
    "grid",
    "lr_sweep",
    "seeds",
    "data_bound",
    "curriculum",
    "feeding",
    "transfer",
    "switch",
    "corpus_statistics",
]


def _plain_path(path: str) -> str:
    """Rules hand paths to a shell."""
    if not re.fullmatch(r"[\w@%+=:,./-]+", path):
        raise ValueError("a folder's name is letters, digits and _ - . / @ % + = : , only (no space, no ~)")
    return path


OpenFraction = Annotated[Float, Field(gt=0, lt=1)]


class BagSpec(BagOptions):
    """One bag phase of a run, the scale's for its size where a key is left out; `BagOptions` has the other keys."""

    bag_fraction: Fraction | None = Field(None, description="r, share of the run's steps")


class PublishedRun(Strict):
    """The row of the paper's tables 1 to 3 that a run repeats."""

    model: Literal["270M", "600M", "3B", "10B-A1B"]
    total_steps: PositiveInt
    variant: Literal["baseline", "tst", "tst_reinitialized_io"]


class StartFrom(Strict):
    """Weights that a run begins with, in place of new ones. A text alone is the path."""

    path: str | None = Field(
        None,
        min_length=1,
        description="folder in Hugging Face's format or of torchtitan's (DCP), or hf://owner/name@revision",
    )
    run: str | None = Field(
        None,
        pattern=r"^[^/]+/[^/]+$",
        description="experiment/run: its exported final model, at the same scale and the scale's own seed",
    )
    trust: bool = Field(
        False, description="unpickle the .metadata of a DCP checkpoint that these results do not hold"
    )

    @model_validator(mode="before")
    @classmethod
    def _a_text_is_the_path(cls, given: object) -> object:
        return {"path": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _one_place(self) -> StartFrom:
        if (self.path is None) == (self.run is None):
            raise ValueError("give either path or run")
        return self


class RunSpec(RecipeOptions):
    """One run of an experiment, in terms of the scale."""

    label: str | None = Field(None, description="name in figures and tables; default: the key of the run")
    role: Literal["baseline", "tst", "curriculum"] | None = Field(
        None, description="default: tst if it has bags, else baseline"
    )
    group: str | None = Field(
        None,
        description="runs are compared within their group; default: one group, in a grid one per size-length",
    )
    size: Size | None = Field(None, description="default: the experiment's")
    length: str = Field("short", description="which of the scale's step counts")
    times: PositiveFloat = Field(
        1.0, description="factor on that step count, e.g. 1.8 for an equal-loss baseline"
    )
    bags: tuple[BagSpec, ...] = Field((), description="bag phases in order; empty for a baseline")
    learning_rate_times: PositiveFloat = Field(1.0, description="factor on the scale's peak learning rate")
    learning_rate: PositiveFloat | None = Field(
        None, description="peak learning rate, instead of the scale's"
    )
    handover: HandoverConfig = Field(
        HandoverConfig(), description="what crosses the switch from bags to tokens"
    )
    fixed_data: bool = Field(
        False,
        description="read the baseline's data and no more: bag_fraction is then a share of the data, and the bag "
        "phases take 1/s of those steps (patch-level training, arXiv 2407.12665)",
    )
    decay_times: PositiveFloat = Field(
        1.0, description="factor on the decay's length; the trunk before it stays as it is"
    )
    phase_decay: bool = Field(False, description="let every phase decay on its own (patch-level training)")
    paper: PublishedRun | None = Field(None, description="the paper's version of the run")
    start_from: StartFrom | None = Field(None, description="default: the experiment's")
    made_elsewhere: Annotated[str, AfterValidator(_plain_path)] | None = Field(
        None,
        description="folder of a run that another trainer made (docs/use-in-your-trainer.md), with label, role, group",
    )
    epochs: PositiveFloat | None = Field(
        None, description="limit the corpus so that the equal-FLOPs baseline reads it this many times"
    )

    @property
    def resolved_role(self) -> str:
        """The role given, or what follows from having bags, or from being made elsewhere."""
        if self.made_elsewhere is not None:
            return self.role or "elsewhere"
        return self.role or ("tst" if self.bags else "baseline")

    @model_validator(mode="after")
    def _says_one_thing(self) -> RunSpec:
        if self.made_elsewhere is not None:
            if others := self.model_fields_set - {"made_elsewhere", "label", "role", "group"}:
                raise ValueError(
                    f"{min(others)} has no effect on a run that was made elsewhere: leave it out, or made_elsewhere"
                )
            return self
        if (self.resolved_role == "baseline") != (not self.bags):
            has = "bags" if self.bags else "no bags"
            raise ValueError(
                f"role {self.resolved_role!r} of a run with {has}: a baseline has none, every other role has some"
            )
        if self.learning_rate is not None and self.learning_rate_times != 1:
            raise ValueError(
                f"learning_rate ({self.learning_rate}) leaves learning_rate_times ({self.learning_rate_times}) no "
                "effect: give one of them"
            )
        if not self.bags and self.handover != HandoverConfig():
            raise ValueError(
                "handover acts at the switch from bags to tokens; a run without bags has none: leave it out"
            )
        return self


class Axes(Strict):
    """Values along the axes of a grid; an empty axis is none."""

    bag_size: tuple[PositiveInt, ...] = ()
    bag_fraction: tuple[Annotated[Float, Field(ge=0, le=1)], ...] = ()
    learning_rate_times: tuple[PositiveFloat, ...] = ()
    weights: tuple[WeightKind, ...] = ()
    sides: tuple[Sides, ...] = ()
    epochs: tuple[PositiveFloat, ...] = ()


class GroupSpec(Axes):
    """A group of a grid: its model and length, and axes of its own instead of the grid's."""

    name: str | None = Field(None, description="name in figures and tables; default: size-length")
    size: Size
    length: str = "short"
    times: PositiveFloat = Field(1.0, description="factor on that step count")
    baselines: tuple[str, ...] = Field((), description="more lengths at which the baseline is run")

    @property
    def title(self) -> str:
        """How figures and tables name it."""
        return self.name or f"{self.size}-{self.length}" + (f" x {self.times:g}" if self.times != 1 else "")


class GridSpec(Axes):
    """Runs made from the product of axes, with a baseline of every group; a scale may thin the axes."""

    size: tuple[Size, ...] = ()
    length: tuple[str, ...] = ()
    groups: tuple[GroupSpec, ...] = Field((), description="use groups instead of the axes size and length")

    @model_validator(mode="after")
    def _one_way_to_name_groups(self) -> GridSpec:
        if self.groups and (self.size or self.length):
            raise ValueError("give groups, or size and length, not both")
        return self


class TableSpec(Strict):
    """A table of the paper that is read from an experiment's grid: one metric over bag size and bag fraction."""

    size: Size
    length: str = "short"
    weights: WeightKind = "uniform"
    metric: str = Field(description="name in table.csv, e.g. final_loss or accuracy/piqa")


class Claim(Strict):
    """What the paper found, and the runs whose final losses show whether it comes out here."""

    says: str = Field(description="the paper's finding in a sentence, with its numbers")
    ends: Literal["lower", "higher", "not_higher"] = Field(
        "lower", description="how each run ends, compared with the other"
    )
    runs: dict[str, str] = Field(
        {}, description="run: the run that it is compared with; empty for a grid's claim"
    )


class ExperimentConfig(RecipeOptions):
    """The runs of one figure or table and how they are compared."""

    title: str
    shows: str = Field(description="one sentence: the question that the experiment answers")
    kind: Kind = "pair"
    paper: tuple[str, ...] = Field((), description="figures and tables of the paper with the same numbers")
    size: Size = "small"
    runs: dict[str, RunSpec] = Field({}, description="runs by name")
    grid: GridSpec | None = None
    runs_of: str | None = Field(None, description="take runs, grid, size and seeds from this experiment")
    seeds: PositiveInt = Field(1, description="number of seeds; every run is made once per seed")
    start_from: StartFrom | None = Field(
        None, description="weights that its runs begin with (continued pretraining); default: new ones"
    )
    token_phase_only: bool = Field(False, description="draw only the token phase")
    evaluate: tuple[Literal["heldout", "tasks"], ...] = Field(
        ("heldout", "tasks"), description="what is measured on final models, besides the training loss"
    )
    metrics: tuple[str, ...] = Field(
        (), description="a grid's metrics, in order; `accuracy` means every task; default: all there are"
    )
    tables: dict[str, TableSpec] = Field({}, description="tables of the paper that are read from the runs")
    claims: tuple[Claim, ...] = Field(
        (), description="what the paper found; docs/results says whether it holds here"
    )

    @model_validator(mode="after")
    def _claims_name_runs(self) -> ExperimentConfig:
        named = {name for claim in self.claims for pair in claim.runs.items() for name in pair}
        if lacking := sorted(named - self.runs.keys()):
            raise ValueError(
                f"claims: {lacking[0]!r} is no run of this experiment: {', '.join(self.runs) or 'none'}"
            )
        return self

    @model_validator(mode="after")
    def _has_something(self) -> ExperimentConfig:
        own = any(run.made_elsewhere is None for run in self.runs.values()) or self.grid is not None
        if self.runs and not own:
            raise ValueError("all runs are made_elsewhere; one of its own belongs to an experiment")
        if not own and self.runs_of is None and self.kind != "corpus_statistics":
            raise ValueError("give runs, grid or both, or runs_of")
        if own and self.runs_of is not None:
            raise ValueError("runs_of takes another experiment's runs: leave out runs and grid")
        roles = {run.resolved_role for run in self.runs.values()}
        if self.kind in ("pair", "seeds") and self.runs and self.grid is None and "baseline" not in roles:
            raise ValueError(
                f"kind {self.kind} compares every run with a baseline, and none of {', '.join(self.runs)} is one: "
                "add a run without bags"
            )
        return self


class Collection(Strict):
    """Several experiments under one name: a figure with parts, or everything."""

    title: str
    experiments: tuple[str, ...] = Field(min_length=1, description="experiments or other collections")


class TstDefaults(Strict):
    """The bag size and step ratio that experiments mean when they name none."""

    bag_size: PositiveInt = Field(description="s")
    bag_fraction: OpenFraction = Field(description="r")


class Trunks(Strict):
    """Where bag phases are cut into stages, so that runs of different experiments share them.

    Without this a run is cut only where another run of its own experiment branches off.
    """

    lengths: tuple[str, ...] = Field(("short",), description="which of the size's lengths")
    bag_fraction: tuple[OpenFraction, ...] = Field(description="shares of each length at which to cut")


class SizeConfig(RecipeOptions):
    """What "small", "medium", "large" or "moe" means at a scale."""

    model: str = Field(description="name of a file in configs/models")
    corpus: str = Field(description="name of a file in configs/corpora")
    sequence_length: PositiveInt = Field(description="latents per sequence")
    batch_sequences: PositiveInt = Field(description="sequences per step, over all ranks")
    learning_rate: PositiveFloat
    warmup_steps: NonNegativeInt
    steps: dict[str, Steps] = Field(description="named step counts, e.g. short: 20000")
    tst: TstDefaults
    trunks: Trunks | None = None
    runtime: RuntimeConfig | None = Field(None, description="replaces the scale's runtime for this size")

    def with_heldout_interval(self, runtime: RuntimeConfig) -> RuntimeConfig:
        """A run-time config whose stages measure the held-out loss at 20 logged steps of its shortest runs, and more.

        The interval depends on the size alone, so that runs measure at the same steps where they share stages.
        """
        if runtime.heldout is None or runtime.heldout.every is not None:
            return runtime
        every = min(self.steps.values()) // 20
        every = max(every // runtime.log_every * runtime.log_every, 1)
        return runtime.model_copy(update={"heldout": runtime.heldout.model_copy(update={"every": every})})

    @model_validator(mode="after")
    def _trunks_have_lengths(self) -> SizeConfig:
        lacking = sorted(set(self.trunks.lengths) - set(self.steps)) if self.trunks else []
        if lacking:
            raise ValueError(f"trunks.lengths names {lacking[0]!r}; steps has: {', '.join(self.steps)}")
        return self


class GridLimits(Axes):
    """Thins the axes of experiments; an axis with no more values than are given here stays as it is."""

    size: tuple[Size, ...] = ()
    length: tuple[str, ...] = ()
    seeds: PositiveInt | None = Field(None, description="at most this many seeds")


class EvaluationConfig(Strict):
    """What is measured on every final model."""

    tasks: tuple[str, ...] = Field((), description="lm-eval tasks; names of configs/tasks or of the harness")
    limit: PositiveInt | None = Field(None, description="items per task; default: all")
    batch_size: PositiveInt = 32
    heldout_tokens: PositiveInt | None = Field(None, description="held-out tokens to score; default: all")


class ScaleConfig(RecipeOptions):
    """What the experiments mean on given hardware."""

    description: str
    means_something: bool = Field(
        True, description="false: the numbers only test the plumbing, and the report says so"
    )
    sizes: dict[Size, SizeConfig]
    decay_fraction: Annotated[Float, Field(ge=0, lt=1)] = Field(
        0.1, description="share of the run in which WSD's learning rate decays, at its end"
    )
    weight_decay: NonNegativeFloat = 0.1
    max_gradient_norm: PositiveFloat = 1.0
    precision: Precision = "float32"
    allow_repeat: bool = False
    seed: NonNegativeInt = 0
    grid: GridLimits = GridLimits()
    runtime: RuntimeConfig = RuntimeConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


KeepCheckpoints = Literal["all", "branch_points", "final"]


class PlanConfig(Strict):
    """What a plan's GPU-hours assume."""

    mfu: Fraction = Field(0.4, description="share of the peak FLOPs that training is assumed to reach")
    peak_tflops: PositiveFloat = Field(
        989.0, description="peak of one device; 989 is an H100's in dense bfloat16"
    )


class ProjectConfig(Strict):
    """configs/demo.yaml, the Snakemake configfile: which experiments at which scale."""

    scale: str = Field("cpu", description="name of a file in configs/scales")
    experiments: tuple[str, ...] = Field(
        description="names of files in configs/experiments, for the default target"
    )
    seeds: PositiveInt | dict[str, PositiveInt] | None = Field(
        None,
        description="seeds of every run, whatever experiments and scale say; or experiment: number for single ones",
    )
    results: Annotated[str, AfterValidator(_plain_path)] = Field(
        "results", description="folder for all output"
    )
    wandb: Literal["off", "offline", "online"] = "off"
    export_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="type of the exported weights; held-out loss and tasks are measured on these"
    )
    keep_checkpoints: KeepCheckpoints = Field("all", description="what `snakemake prune` leaves")
    plan: PlanConfig = PlanConfig()
    comparison: ComparisonOptions = ComparisonOptions()

    def seeds_of(self, experiment: str) -> int | None:
        """Number of seeds of an experiment; None leaves it to its file and the scale."""
        return self.seeds.get(experiment) if isinstance(self.seeds, dict) else self.seeds

    @field_validator("experiments", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        """``--config experiments=mine``."""
        return (value,) if isinstance(value, str) else value

    @field_validator("wandb", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        """YAML 1.1, and so ``--config wandb=off``, reads off as false."""
        return "off" if value is False else value
