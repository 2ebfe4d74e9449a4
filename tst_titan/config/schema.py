"""The typed pieces of a stage: model, superposition, optimizer, schedule, hand-over, data and run-time.

Every model is frozen and rejects unknown keys, so that a mistyped key is an error and never a silent default.
``StageConfig`` is what ``stage.yaml`` holds: everything that determines a stage's result and nothing else.
``RuntimeConfig`` is the rest (processes, logging, hardware): a change of it retrains nothing.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializeAsAny, model_validator

from tst_titan.config.strict import (
    Float,
    Fraction,
    Int,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Steps,
    Strict,
)
from tst_titan.config.titan_keys import TitanKeys
from tst_titan.models.family import ModelConfig
from tst_titan.superposition.bags import Sides, tokens_advanced, tokens_per_window
from tst_titan.superposition.losses import LOSSES, LossName
from tst_titan.superposition.weights import WeightKind, relative_weights

Phase = Literal["bag", "token", "decay"]
Feeding = Literal["longer_sequences", "more_sequences"]
Precision = Literal["float32", "bfloat16", "float8", "mxfp8"]
ModelPart = Literal["embedding", "lm_head"]


class MutualInformationLaw(Strict):
    """Constants of the fitted law C0 + a * d**k over distance d in tokens (the paper's figure 10)."""

    c0: Float = 3.63
    a: Float = 1.35
    k: Float = -1.25

    def __call__(self, distance: float) -> float:
        """The law at a distance in tokens."""
        return self.c0 + self.a * distance**self.k


class BagOptions(Strict):
    """What a bag is: the keys that an experiment's ``bags`` and a stage's ``superposition`` have in common."""

    bag_size: PositiveInt | None = Field(None, description="s, contiguous tokens per bag")
    sides: Sides = Field("full", description="which sides of the model see bags")
    weights: WeightKind | tuple[Float, ...] = Field(
        "uniform", description="weight of the i-th target of a bag"
    )
    mutual_information: MutualInformationLaw = Field(
        MutualInformationLaw(), description="constants of the law behind the weights of that name"
    )
    loss: LossName = Field("mce", description="loss over the bag of targets")
    feeding: Feeding = Field(
        "longer_sequences",
        description="read s times longer data sequences, or s times as many of the ordinary length",
    )

    @property
    def tokens_per_latent(self) -> int:
        """Data tokens by which one latent moves the reading position forward."""
        return tokens_advanced(1, self.bag_size or 1, self.sides)


class SuperpositionConfig(BagOptions):
    """How a stage superposes tokens; absent in a plain token stage."""

    bag_size: PositiveInt = Field(description="s, contiguous tokens per bag")

    @property
    def relative_weights(self) -> list[float] | None:
        """Weights of a bag's targets, not scaled to any sum; None where the loss sees the bag as a set."""
        if not LOSSES[self.loss].takes_weights:
            return None
        return relative_weights(self.weights, self.bag_size, self.mutual_information)

    @model_validator(mode="after")
    def _weights_fit(self) -> SuperpositionConfig:
        relative_weights(self.weights, self.bag_size, self.mutual_information)
        if self.weights != "mutual_information" and self.mutual_information != MutualInformationLaw():
            raise ValueError(
                f"mutual_information has no effect with weights {self.weights!r}; it needs mutual_information"
            )
        return self

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> SuperpositionConfig:
        plain = BagOptions()
        if self.sides == "input_only" and (self.loss, self.weights) != (plain.loss, plain.weights):
            raise ValueError(
                f"sides input_only has one target and its ordinary cross-entropy; loss {self.loss!r} and weights "
                f"{self.weights!r} have no effect there: leave both out"
            )
        if self.weights != plain.weights and not LOSSES[self.loss].takes_weights:
            takers = ", ".join(name for name, loss in LOSSES.items() if loss.takes_weights)
            raise ValueError(
                f"weights {self.weights!r} have no effect on the loss {self.loss!r}; only {takers} takes them"
            )
        if self.sides == "output_only" and self.feeding == "more_sequences":
            raise ValueError(
                "feeding more_sequences needs bags at the input; output_only reads no extra data"
            )
        return self


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return text


ParameterPattern = Annotated[str, Field(min_length=1), AfterValidator(_regular_expression)]


class ParameterGroup(Strict):
    """AdamW's settings for some parameters; if several groups match a parameter, the first one applies."""

    match: ParameterPattern = Field(
        description="`norms`, `biases`, `embeddings`, `head`, or a regular expression searched in torchtitan's names"
    )
    weight_decay: NonNegativeFloat | None = Field(None, description="default: that of all other parameters")
    learning_rate_times: PositiveFloat = Field(1.0, description="factor on the learning rate")
    beta1: Fraction | None = Field(None, description="default: that of all other parameters")
    beta2: Fraction | None = Field(None, description="default: that of all other parameters")


class MuonConfig(Strict):
    """Muon for the matrices of the layers that no group matches, AdamW for all else; `muon: {}` turns it on."""

    learning_rate_times: PositiveFloat = Field(1.0, description="factor on the learning rate")
    momentum: Fraction = 0.95
    nesterov: bool = True
    newton_schulz_steps: PositiveInt = 5
    scaling: Literal["match_rms_adamw", "original"] = Field(
        "match_rms_adamw",
        description="of an update by its matrix's shape: so that AdamW's learning rate and weight decay fit "
        "(arXiv 2502.16982), or Muon's own",
    )


class OptimizerOptions(Strict):
    """Optimizer settings besides learning rate, `weight_decay` and `max_gradient_norm`."""

    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: PositiveFloat = 1e-8
    no_decay: tuple[ParameterPattern, ...] = Field(
        (),
        description="parameters without weight decay, e.g. `[norms, biases, embeddings]`; as `match` of a group",
    )
    groups: tuple[ParameterGroup, ...] = ()
    muon: MuonConfig | None = None


class OptimizerConfig(OptimizerOptions):
    """AdamW, as the paper: betas 0.9 / 0.95, weight decay and clipping are our choice where it is silent."""

    learning_rate: PositiveFloat = Field(description="peak learning rate")
    weight_decay: NonNegativeFloat = 0.1
    max_gradient_norm: PositiveFloat = 1.0


ScheduleKind = Literal["wsd", "cosine"]


class ScheduleOptions(Strict):
    """What follows the linear warm-up: a constant rate and a linear decay (`wsd`), or a cosine over all other steps."""

    kind: ScheduleKind = Field("wsd", description="only with wsd do runs of several lengths share a trunk")
    min_factor: Annotated[Float, Field(ge=0, lt=1)] = Field(
        0.0, description="of the peak learning rate, where the decay ends"
    )


class DocumentOptions(Strict):
    """How training treats borders of documents; by default it ignores them, as in the paper: windows are packed."""

    mask_attention: bool = Field(
        False, description="tokens attend to their own document only, in token and decay stages"
    )
    bags_inside: bool = Field(
        False,
        description="no bag spans two documents: a document's last bag is filled up, and the filler not counted",
    )


class RecipeOptions(Strict):
    """What may be set for a scale, a size, an experiment and a run: key by key, the later before the earlier."""

    optimizer: OptimizerOptions = OptimizerOptions()
    schedule: ScheduleOptions = ScheduleOptions()
    documents: DocumentOptions = DocumentOptions()
    titan: TitanKeys = Field(
        {}, description="keys of torchtitan's config, by dotted path or nested, e.g. `{training.gc_freq: 10}`"
    )

    def under(self, *later: RecipeOptions) -> RecipeOptions:
        """These options, with those that the later ones give in their place."""
        names = RecipeOptions.model_fields
        found: dict[str, Any] = {}
        for options in (self, *later):
            given = options.model_dump(exclude_unset=True, include=set(names))
            for name, value in given.items():
                found[name] = found.get(name, {}) | value
        return RecipeOptions.model_validate(found)


class StageSchedule(Strict):
    """Learning-rate factor of one stage over absolute step indices (0 = first step of the run).

    Linear warm-up from ``warmup_start`` over ``warmup_steps``, then constant, then, if ``decay_start`` is set,
    a decay of that ``shape`` that would reach ``min_factor`` at step ``decay_end``. A new warm-up in the middle of a
    cosine multiplies it.
    """

    warmup_start: NonNegativeInt = 0
    warmup_steps: NonNegativeInt
    decay_start: NonNegativeInt | None = None
    decay_end: PositiveInt | None = None
    min_factor: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    shape: Literal["linear", "cosine"] = "linear"

    @model_validator(mode="after")
    def _decay_is_whole(self) -> StageSchedule:
        if (self.decay_start is None) != (self.decay_end is None):
            raise ValueError("decay_start and decay_end go together")
        if self.decay_start is not None and self.decay_end is not None and self.decay_end <= self.decay_start:
            raise ValueError(f"decay_end ({self.decay_end}) must lie after decay_start ({self.decay_start})")
        return self

    def factor(self, step: int) -> float:
        """Multiplier of the peak learning rate for the 0-based step index ``step``."""
        since_warmup = step - self.warmup_start
        warm = 1.0
        if 0 <= since_warmup < self.warmup_steps:
            warm = (since_warmup + 1) / self.warmup_steps
            if self.shape == "linear":
                return warm
        if self.decay_start is None or self.decay_end is None or step < self.decay_start:
            return warm
        left = max(1.0 - (step - self.decay_start) / (self.decay_end - self.decay_start), 0.0)
        if self.shape == "cosine":
            left = 0.5 * (1.0 - math.cos(math.pi * left))
        return warm * (self.min_factor + (1.0 - self.min_factor) * left)


class HandoverConfig(Strict):
    """What a stage takes over from its parent's last checkpoint."""

    load: Literal["everything", "model_only"] = Field(
        "everything", description="everything keeps Adam's moments; model_only starts them afresh"
    )
    reinitialize: tuple[ModelPart, ...] = Field(
        (), description="parts that start anew, moments included (the paper's table 2)"
    )
    rewarm_steps: NonNegativeInt = Field(0, description="steps of a new warm-up after the switch; 0: none")


class DataConfig(Strict):
    """What a stage reads. Positions are counted in tokens per lane (docs/architecture.md)."""

    corpus: str = Field(description="name of a file in configs/corpora")
    sequence_length: PositiveInt = Field(description="L, latents per sequence")
    batch_sequences: PositiveInt = Field(description="B, sequences per step = lanes")
    allow_repeat: bool = Field(False, description="read on from the start when the corpus ends")
    limit_tokens: PositiveInt | None = Field(None, description="use only the first tokens of the corpus")
    order: NonNegativeInt = Field(0, description="which order of the data; 0 is the corpus's own")


class StageConfig(Strict):
    """Everything that determines the result of one stage, except its parent and the data's content."""

    format: Literal[1, 2] = Field(
        2, description="which defaults hold for keys that stage.yaml leaves out; in 1 it left out none"
    )
    phase: Phase
    start_step: NonNegativeInt
    end_step: Steps
    seed: NonNegativeInt
    precision: Precision
    model: SerializeAsAny[ModelConfig]
    data: DataConfig
    superposition: SuperpositionConfig | None = None
    optimizer: OptimizerConfig
    schedule: StageSchedule
    handover: HandoverConfig | None = Field(None, description="absent in a root stage")
    start_from: str | None = Field(
        None, description="of a root stage: name below <results>/start of the weights that it begins with"
    )
    titan: TitanKeys = Field({}, description="keys of torchtitan's config that change the result")
    documents: DocumentOptions = DocumentOptions()

    @property
    def bag_size(self) -> int:
        """Tokens per bag; 1 without superposition."""
        return 1 if self.superposition is None else self.superposition.bag_size

    @property
    def sequences_per_lane(self) -> int:
        """Sequences that a lane's window is cut into: s with feeding more_sequences, else 1."""
        sup = self.superposition
        return sup.bag_size if sup is not None and sup.feeding == "more_sequences" else 1

    @property
    def latents_per_sequence(self) -> int:
        """Latents that attend to each other."""
        return self.data.sequence_length // self.sequences_per_lane

    @property
    def latents_per_step(self) -> int:
        """Latents that one optimizer step processes: the same in every phase."""
        return self.data.batch_sequences * self.data.sequence_length

    @property
    def lane_advance(self) -> int:
        """Data tokens that one step moves each lane forward."""
        per_latent = 1 if self.superposition is None else self.superposition.tokens_per_latent
        return self.data.sequence_length * per_latent

    @property
    def lane_lookahead(self) -> int:
        """Data tokens beyond the advance that the last targets of a step need."""
        shape = (
            self.latents_per_sequence,
            self.bag_size,
            self.superposition.sides if self.superposition else "full",
        )
        return tokens_per_window(*shape) - tokens_advanced(*shape)

    @property
    def data_tokens_per_step(self) -> int:
        """Data tokens that one step reads from the corpus, over all lanes."""
        return self.lane_advance * self.data.batch_sequences

    @model_validator(mode="after")
    def _stage_is_consistent(self) -> StageConfig:
        if self.end_step <= self.start_step:
            raise ValueError(f"end_step ({self.end_step}) must lie after start_step ({self.start_step})")
        if (self.start_step == 0) != (self.handover is None):
            raise ValueError("handover belongs to every stage but the first of a run")
        if self.start_from is not None and self.start_step:
            raise ValueError("start_from belongs to the first stage of a run; the others have a parent")
        if self.phase == "bag" and self.superposition is None:
            raise ValueError("phase bag needs superposition")
        if self.phase == "token" and self.superposition is not None:
            raise ValueError("phase token is plain next-token training; superposition must be absent")
        if self.documents.mask_attention and self.superposition is not None:
            raise ValueError("documents.mask_attention is of stages without superposition")
        if self.documents.bags_inside and (
            self.superposition is None or self.superposition.sides == "output_only"
        ):
            raise ValueError("documents.bags_inside needs bags at the input: sides full or input_only")
        if self.data.sequence_length > self.model.max_sequence_length:
            raise ValueError(
                f"data.sequence_length ({self.data.sequence_length}) exceeds "
                f"model.max_sequence_length ({self.model.max_sequence_length})"
            )
        parts = self.handover.reinitialize if self.handover else ()
        if self.model.tied_embeddings and len(set(parts)) == 1:
            raise ValueError(
                f"handover.reinitialize: found {parts[0]} alone; the model's embedding and LM head are one matrix "
                "(tied_embeddings): name both, [embedding, lm_head], or neither"
            )
        sup = self.superposition
        if sup and sup.feeding == "more_sequences" and self.data.sequence_length % sup.bag_size:
            raise ValueError(
                f"feeding more_sequences cuts data sequences of {self.data.sequence_length} tokens into bags: "
                f"bag_size ({sup.bag_size}) must divide data.sequence_length"
            )
        return self


class ParallelConfig(Strict):
    """Degrees of parallelism; their product is the number of processes. 0 means the rest (at most one)."""

    replicate: NonNegativeInt = Field(1, description="data-parallel copies (HSDP when shard > 1 too)")
    shard: NonNegativeInt = Field(0, description="FSDP2 shards; 0: all processes that are left")
    tensor: PositiveInt = Field(1, description="tensor parallel degree")
    expert: PositiveInt = Field(1, description="expert parallel degree (MoE), borrowed from shard x tensor")
    context: PositiveInt = Field(1, description="context parallel degree")
    pipeline: PositiveInt = Field(1, description="pipeline parallel degree")


class HeldoutConfig(Strict):
    """Held-out loss during training: of which part of the hold-out, and how often."""

    tokens: PositiveInt | None = Field(
        None,
        description="held-out tokens to score, in windows spread evenly over the hold-out; more than there are is "
        "refused. Default as many as cost about 5 % of the training's time, a million or the hold-out at most",
    )
    every: PositiveInt | None = Field(
        None,
        description="steps between measurements, besides the first and the last of a stage and those that follow a "
        "switch closely; default a 20th of the size's shortest length",
    )


# Where `cpu_threads` turns from one to all cores. By size, not by a measurement at the start: results differ in the
# last bit between numbers of threads, and a stage must resume with the number that it began with. The bound itself is
# a guess between the demo's models of 0.2 to 0.9 million, which one thread serves best, and those worth a machine.
PARAMETERS_WORTH_THREADS = 10_000_000


class RuntimeConfig(Strict):
    """How a stage runs, as opposed to what it computes. Never part of a stage's identity."""

    processes_per_node: PositiveInt = Field(
        1, description="training processes on each node (GPUs, or CPU ranks)"
    )
    nodes: PositiveInt = 1
    gpus_per_node: NonNegativeInt = Field(
        0, description="GPUs of each node that a job asks its cluster for: one a process, or none"
    )
    gpu_type: Annotated[str, Field(pattern=r"^[^\s'\":]+$")] | None = Field(
        None, description="the cluster's name of the GPU, as in --gres=gpu:a100:8; default: any"
    )
    cpus_per_node: PositiveInt | None = Field(
        None, description="cores of each node that a job asks for; default: those that its processes use"
    )
    parallel: ParallelConfig = ParallelConfig()
    micro_batch_sequences: PositiveInt | None = Field(
        None, description="sequences per forward pass and data-parallel rank; default: all at once"
    )
    compile: bool = Field(False, description="torch.compile of model and loss")
    loss_chunks: PositiveInt = Field(
        1, description="chunks of the sequence for LM head and loss; 1: no chunking"
    )
    activation_checkpoint: Literal["none", "selective", "full", "memory_budget"] = "none"
    cpu_threads: NonNegativeInt = Field(
        0,
        description="threads per CPU process; 0: one for a model of fewer than 10 million parameters, and for a larger "
        "one the cores of the job, or of the machine, shared evenly",
    )
    memory_mb: PositiveInt = Field(4000, description="memory of the job on each node, MB")
    wall_minutes: PositiveInt = Field(
        120, description="wall time of one job; a longer stage takes several jobs"
    )
    stop_seconds: NonNegativeInt = Field(
        300, description="how long before the end of that time a job is asked for a checkpoint; 0: never"
    )
    log_every: PositiveInt = Field(10, description="steps between lines of metrics.jsonl")
    heldout: HeldoutConfig | None = Field(
        HeldoutConfig(), description="held-out loss during training; null: not measured"
    )
    checkpoint_every: PositiveInt = Field(500, description="steps between checkpoints")
    keep_last_checkpoints: Annotated[Int, Field(ge=2)] = Field(
        2, description="checkpoints kept inside a stage"
    )
    async_checkpoint: bool = Field(
        False, description="write checkpoints while training continues (accelerators)"
    )
    deterministic: bool = Field(False, description="deterministic kernels (always so on the CPU)")
    peak_tflops: PositiveFloat | None = Field(
        None, description="peak of one device for MFU; default: torchtitan's table, no MFU on the CPU"
    )
    wandb: Literal["off", "offline", "online"] = Field("off", description="the project's setting")
    wandb_group: str | None = Field(
        None, description="the run that the stage belongs to; none if several share it"
    )
    init_timeout_s: PositiveInt = 600
    train_timeout_s: PositiveInt = 300
    environment: dict[str, str] = Field({}, description="extra environment variables, e.g. NCCL settings")
    titan: TitanKeys = Field(
        {}, description="keys of torchtitan's config that change no result; `titan` of the scale and others"
    )
    run_tokens_per_lane: NonNegativeInt = Field(
        0,
        description="tokens per lane that the longest run through this stage reads; checked before training",
    )

    @property
    def world_size(self) -> int:
        """Number of training processes."""
        return self.nodes * self.processes_per_node

    def for_model(self, parameters: int) -> RuntimeConfig:
        """This config with one thread a process where more would not pay: on CPUs, for a small model.

        Its products are too short to share. And stages train side by side: each with a thread for every core is several
        times slower than each with one.
        """
        if self.cpu_threads or self.gpus_per_node or parameters >= PARAMETERS_WORTH_THREADS:
            return self
        return self.model_copy(update={"cpu_threads": 1})

    @property
    def wants_the_machine(self) -> bool:
        """Whether the job's processes share all cores that there are: a large model on CPUs, and nothing said."""
        return not (self.cpu_threads or self.cpus_per_node or self.gpus_per_node)

    @property
    def cores_per_node(self) -> int:
        """Cores that a job asks for on each node."""
        return self.cpus_per_node or self.processes_per_node * max(self.cpu_threads, 1)

    @property
    def gres(self) -> str | None:
        """The GPUs of each node as Slurm's generic resource; None without."""
        kind = f":{self.gpu_type}" if self.gpu_type else ""
        return f"gpu{kind}:{self.gpus_per_node}" if self.gpus_per_node else None

    @model_validator(mode="after")
    def _one_process_drives_one_gpu(self) -> RuntimeConfig:
        if self.gpus_per_node not in (0, self.processes_per_node):
            raise ValueError(
                f"gpus_per_node ({self.gpus_per_node}) must be processes_per_node ({self.processes_per_node}) or 0"
            )
        return self
