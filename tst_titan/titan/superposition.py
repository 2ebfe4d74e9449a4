"""Token superposition for any torchtitan recipe: bags for so many steps, then tokens, with the stock weights and keys.

Embedding and loss go by the shape of what they get: tokens (B, L) pass through torchtitan's own code, bags (B, L, s)
through ours. So one model, one optimizer and one checkpoint serve both phases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import cache
from typing import Any, ClassVar, cast

import torch
from torch.distributed.tensor import DTensor, Shard
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import IGNORE_INDEX, BaseLoss, ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.config import CompileConfig
from torchtitan.distributed.spmd_types import current_spmd_mesh, spmd_mesh_size
from torchtitan.distributed.utils import get_spmd_backend
from torchtitan.models.common import Embedding
from torchtitan.models.common.decoder import Decoder
from torchtitan.models.deepseek_v3.mtp import MTPDecoder, MTPLoss
from torchtitan.tools.logging import logger
from torchtitan.trainer import Trainer

from tst_titan.errors import UserError
from tst_titan.superposition import (
    VocabShard,
    bag_embedding,
    bag_labels,
    bag_loss,
    target_weights,
    tokens_per_window,
)
from tst_titan.superposition.bags import Sides
from tst_titan.superposition.losses import LossName, loss_of


@dataclass(kw_only=True, frozen=True, slots=True)
class Superposition:
    """What a job superposes, and for how long."""

    bag_size: int = 1
    """s, contiguous tokens per bag."""

    steps: int | None = 0
    """Steps that read bags; the ones after them read tokens. None: all steps."""

    sides: Sides = "full"
    """Which sides of the model see bags."""

    loss: LossName = "mce"
    """Loss of a bag of targets."""

    weights: str | tuple[float, ...] = "uniform"
    """Of the targets of a bag, for mce: uniform, power, exponential, first, or s numbers (in Python)."""

    fills_bags: bool = False
    """Whether the loader fills bags up (superposition/documents.py); its filler is not averaged."""

    def reads_bags(self, step: int) -> bool:
        """Whether a step, counted from 1, is one of the bag phase."""
        return self.steps is None or step <= self.steps

    def normalized_weights(self) -> tuple[float, ...] | None:
        """Weights of a bag's targets, which sum to 1; None for a loss that sees the bag as a set."""
        if not loss_of(self.loss).takes_weights:
            return None
        return tuple(target_weights(self.weights, self.bag_size).tolist())


def superpose(config: Trainer.Config, superposition: Superposition) -> Trainer.Config:
    """The same recipe, reading bags in the steps that ``superposition`` names.

    What changes: the token embedding, the loss, the window that the loader reads, and that speeds and MFU count
    latents. ``training.seq_len`` and the batch size count latents in both phases. The given config stays as it is.

    A loader whose Config says ``cuts_bags`` (the pipeline's lanes) is left alone, and with it the trainer: both know
    their bags already.

    Raises:
        UserError: the recipe or the superposition cannot be used, with key, value and what would do.
    """
    _check(config, superposition)
    spec = config.model_spec
    assert spec is not None
    changes: dict[str, Any] = {
        "model_spec": replace(spec, model=with_bag_embedding(spec.model, superposition.fills_bags)),
        "loss": _with_bag_loss(config.loss, superposition, spec.model.vocab_size),
    }
    if not getattr(config.dataloader, "cuts_bags", False):
        changes["dataloader"] = BagWindows.Config(inner=config.dataloader, superposition=superposition)
        config = with_flags(config, superposition)
    return replace(config, **changes)


def with_flags(config: Trainer.Config, superposition: Superposition) -> Trainer.Config:
    """A recipe whose trainer superposes when it is built, so that flags can still change everything."""
    if hasattr(config, "superposition"):
        return replace(config, superposition=superposition)
    return _extended(config, SuperposedTrainer, superposition=superposition)


def _check(config: Trainer.Config, superposition: Superposition) -> None:
    s, steps, parallel = superposition.bag_size, superposition.steps, config.parallelism
    spec = config.model_spec
    name = "none" if spec is None else f"{spec.name} {spec.flavor}"

    def refuse(key: str, found: Any, valid: str) -> None:
        raise UserError(f"{key}: found {found}; {valid}")

    if s < 1:
        refuse("superposition.bag_size", s, "valid are whole numbers from 2 on (1 reads tokens)")
    if steps is not None and not 0 <= steps <= config.training.steps:
        refuse("superposition.steps", steps, f"valid are 0 to training.steps, {config.training.steps}")
    if s > 1 and steps == 0:
        refuse("superposition.steps", 0, f"with bag_size {s} say how many steps read bags, e.g. 0.3 of all")
    if s == 1 and steps:
        refuse("superposition.bag_size", 1, f"{steps} steps are to read bags: give their size, from 2 on")
    try:
        superposition.normalized_weights()
        tokens_per_window(1, s, superposition.sides)
    except ValueError as error:
        raise UserError(f"superposition: {error}") from None
    if spec is None or not isinstance(spec.model, Decoder.Config) or embedding_of(spec.model) is None:
        refuse("model_spec", name, "a bag needs a decoder with one token embedding (docs/models.md)")
    if parallel.spmd_backend == "full_dtensor":
        refuse("parallelism.spmd_backend", "full_dtensor", "bags work with spmd_types and partial_dtensor")
    for axis in ("pipeline", "context"):
        degree = getattr(parallel, f"{axis}_parallel_degree")
        if degree > 1:
            refuse(f"parallelism.{axis}_parallel_degree", degree, "bags are tested without it only: 1")
    loader = type(config.dataloader)
    kind = getattr(loader, "_owner", loader).__name__
    if "Chat" in kind or kind.startswith("MM"):
        refuse(
            "dataloader", kind, "bags need running text: HuggingFaceTextDataLoader or your own of its kind"
        )
    inner = config.loss.loss_fn if isinstance(config.loss, ChunkedLossWrapper.Config) else config.loss
    if not isinstance(inner, CrossEntropyLoss.Config | MTPLoss.Config):
        found = type(inner).__qualname__.removesuffix(".Config")
        refuse("loss", found, "valid are CrossEntropyLoss, alone or in a ChunkedLossWrapper, and MTPLoss")


class BagEmbedding(Embedding):
    """Embeds bags of token ids, shape (B, L, s), as the mean of their rows, shape (B, L, D); tokens (B, L) as ever.

    The mean is accumulated in float32 and cast back (arXiv 2605.06546, method). Under tensor parallelism the
    rows are sharded over the vocabulary and the result is this rank's partial sum, as for the stock module.
    """

    numbered: torch.Tensor | None = None
    """Bags (N, s) that the ids of a (B, L) input are numbers of; for multi-token prediction."""

    # torchtitan's sharding config refers to the argument by its name.
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Mean embedding of each bag, or the embedding of each token.

        Args:
            input: token ids, int64, shape (B, L, s) or (B, L).
        """
        bags = input if self.numbered is None else self.numbered[input]
        if bags.ndim == 2:
            return super().forward(bags)
        weight = self.weight.to_local() if isinstance(self.weight, DTensor) else self.weight
        shard = None if self.tp_group is None else VocabShard.of_group(self.num_embeddings, self.tp_group)
        return bag_embedding(weight, bags, shard)


class FilledBagEmbedding(BagEmbedding):
    """The mean over the tokens of each bag without its filler; every bag holds a token."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Mean embedding of each bag, or the embedding of each token.

        Args:
            input: token ids, int64, shape (B, L, s) with filler -100, or (B, L).
        """
        if input.ndim == 2:
            return super().forward(input)
        weight = self.weight.to_local() if isinstance(self.weight, DTensor) else self.weight
        # Ids that are nobody's rows add nothing to the mean over all s.
        everything = VocabShard(0, self.num_embeddings, self.num_embeddings)
        shard = (
            everything if self.tp_group is None else VocabShard.of_group(self.num_embeddings, self.tp_group)
        )
        mean = bag_embedding(weight, input, shard)
        wide = torch.promote_types(mean.dtype, torch.float32)
        times = input.shape[-1] / (input >= 0).sum(-1, keepdim=True).to(wide)
        return (mean.to(wide) * times).to(mean.dtype)


class BagMTPDecoder(MTPDecoder):
    """Multi-token prediction over bags: depth k predicts the bag k + 1 places ahead.

    torchtitan shifts a (B, L) tensor of ids to get the inputs of each depth, so bags go in by their numbers.
    """

    def forward(self, tokens: torch.Tensor, positions: Any = None, attention_masks: Any = None) -> Any:
        """Logits (B, L, V) of the next bag and of each one after it.

        Args:
            tokens: ids, int64, shape (B, L, s) or (B, L).
            positions: int64, shape (B, L).
            attention_masks: of torchtitan's attention.
        """
        if tokens.ndim == 2:
            return super().forward(tokens, positions, attention_masks)
        embedding: Any = self.tok_embeddings
        bags = tokens.flatten(0, 1)
        # Number 0 fills the end of a shifted sequence, where nothing is predicted.
        embedding.numbered = torch.cat([torch.zeros_like(bags[:1]), bags])
        numbers = torch.arange(1, len(bags) + 1, device=tokens.device).view(tokens.shape[:2])
        try:
            return super().forward(numbers, positions, attention_masks)
        finally:
            embedding.numbered = None


class BagLoss(BaseLoss):
    """Loss of every latent over the bag of tokens that it predicts; labels that are no bags go to the stock loss.

    torchtitan divides by the number of labels, s per latent; the loss is a mean over latents, so that a
    cross-entropy starts near ln(V) for every bag size.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseLoss.Config):
        bag_size: int
        vocab_size: int
        name: str = "mce"
        weights: tuple[float, ...] | None = None
        """Weight of the i-th target, normalised; only for mce."""
        inner: BaseLoss.Config = field(default_factory=CrossEntropyLoss.Config)
        """The stock loss: of tokens, and how the losses of several predictions are put together."""

    def __init__(self, config: Config, *, compile_config: CompileConfig | None = None):
        self.bag_size = config.bag_size
        self.vocab_size = config.vocab_size
        self.name = config.name
        self.weights = None if config.weights is None else target_weights(config.weights, config.bag_size)
        self.inner: BaseLoss = config.inner.build(compile_config=compile_config)
        self.of_tokens = self.inner.fn
        self.inner.fn = self._sum

    def __call__(
        self,
        pred: Any,
        labels: torch.Tensor,
        global_valid_tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Sum of the loss over this rank's latents, divided by the latents of the whole batch.

        Args:
            pred: logits (B, L, V), or this rank's columns of them; a list of them for multi-token prediction.
            labels: token ids (B, L, s) or (B, L).
            global_valid_tokens: labels of the whole batch, s times the number of latents for bags.
            kwargs: positions (B, L), for multi-token prediction.

        Raises:
            RuntimeError: the logits are a part of the vocabulary and nothing says which.
        """
        if labels.ndim == 3 and kwargs.get("positions") is not None:
            # The stock loss shifts labels and compares positions element by element.
            kwargs["positions"] = kwargs["positions"][..., None]
        return self.inner(pred, labels, global_valid_tokens, **kwargs)

    def _sum(self, pred: torch.Tensor, labels: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Sum over all labels, as torchtitan wants it: for bags, s times the sum over latents."""
        return self.of_tokens(pred, labels, **kwargs) if labels.ndim == 2 else self._of_bags(pred, labels)

    def _of_bags(self, pred: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        shard = None
        if isinstance(pred, DTensor):
            if any(
                isinstance(placement, Shard) and placement.dim == pred.ndim - 1
                for placement in pred.placements
            ):
                shard = VocabShard.of_group(pred.shape[-1], pred.device_mesh.get_group("tp"))
            pred = pred.to_local()
        elif get_spmd_backend() == "spmd_types" and spmd_mesh_size("tp") > 1:
            mesh: Any = current_spmd_mesh()
            shard = VocabShard.of_group(self.vocab_size, mesh.get_group("tp"))
        if shard is None and pred.shape[-1] != self.vocab_size:
            raise RuntimeError(
                f"the head gives {pred.shape[-1]} logits of a vocabulary of {self.vocab_size} and does not say which: "
                "a sharded head must give a DTensor, as torchtitan's spmd_backend partial_dtensor does"
            )
        if self.weights is not None and self.weights.device != pred.device:
            self.weights = self.weights.to(pred.device)
        total = bag_loss(
            self.name,
            pred.flatten(0, 1),
            labels.flatten(0, 1),
            self.weights,
            shard=shard,
            # Nobody reads the head's output again: its storage takes the gradient.
            overwrite_logits=pred.requires_grad,
        )
        return total * self.bag_size


class BagWindows(BaseDataLoader):
    """Any loader of running text, reading windows of bags until it is told to read tokens.

    A loader yields L inputs and the token after each of them; read as one window of L + 1 tokens this is what bags
    are cut from, so bags need no more than another L. At the switch a loader of plain windows takes over the reading
    position. Latents attend to their whole window, over the borders of documents, as in the paper.

    Attributes:
        bag_size: of the batches from now on; 1 yields the given loader's own batches.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(BaseDataLoader.Config):
        inner: Any = None
        """The recipe's loader."""
        superposition: Superposition = field(default_factory=Superposition)

    def __init__(
        self, config: Config, *, seq_len: int, snapshot_every_n_steps: int | None = None, **given: Any
    ):
        self.superposition, self.latents = config.superposition, seq_len
        self.bag_size = self.superposition.bag_size if self.superposition.reads_bags(1) else 1
        # The switch needs the position after every batch, where workers read ahead.
        snapshot = snapshot_every_n_steps if self.bag_size == 1 else 1
        self._build = lambda bag_size: config.inner.build(
            seq_len=tokens_per_window(seq_len, bag_size, self.superposition.sides) - 1,
            snapshot_every_n_steps=snapshot,
            **given,
        )
        self._open_size, self.inner = self.bag_size, self._build(self.bag_size)

    def __iter__(self) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Batches: inputs (B, L, s) and labels (B, L, s) of bags, or the loader's own of tokens."""
        while True:
            self._turn_to(self.bag_size)
            for given, labels in self.inner:
                yield (given, labels) if self._open_size == 1 else self._cut(given, labels)
                if self.bag_size != self._open_size:
                    break
            else:
                return

    def _turn_to(self, bag_size: int) -> None:
        if bag_size != self._open_size:
            position = self.inner.state_dict()
            self._open_size, self.inner = bag_size, self._build(bag_size)
            self.inner.load_state_dict(position)

    def _cut(
        self, given: dict[str, torch.Tensor], next_tokens: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        window = torch.cat([given["input"][:, :1], next_tokens], dim=1)
        if bool((window == IGNORE_INDEX).any()):
            raise UserError(
                "dataloader: found labels that do not count (-100); bags need running text without masks"
            )
        inputs, labels = bag_labels(window, self._open_size, self.superposition.sides)
        batch = {"input": inputs.contiguous()}
        if "positions" in given:
            batch["positions"] = torch.arange(self.latents).repeat(len(window), 1)
        return batch, labels.contiguous()

    def state_dict(self) -> dict[str, Any]:
        """The reading position of the loader inside: the same in both phases."""
        return self.inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at a position, of either phase."""
        self.inner.load_state_dict(state_dict)


class SuperposedTrainer(Trainer):
    """A trainer of torchtitan's that reads bags, then tokens; checkpoints continue in either phase."""

    EXTRA_FIELDS: ClassVar = [("superposition", Superposition, field(default_factory=Superposition))]

    def __init__(self, config: Any):
        if config.superposition != Superposition() and not isinstance(config.dataloader, BagWindows.Config):
            try:
                config = superpose(config, config.superposition)
            except UserError as error:
                # torchtitan's command line is the caller.
                raise SystemExit(f"tst_titan: {error}") from None
        super().__init__(config)
        self._of_tokens: Any = self.fwd_bwd_fn

    def train_step(self, data_iterator: Iterator[Any]) -> None:
        """One optimizer step, of the phase that its number says."""
        superposition = cast(Any, self.config).superposition
        if isinstance(self.dataloader, BagWindows):
            bags = superposition.reads_bags(self.step)
            size = superposition.bag_size if bags else 1
            if size != self.dataloader.bag_size:
                logger.info(f"step {self.step}: from here on, bags of {size} (1: tokens)")
            self.dataloader.bag_size = size
            # A CUDA graph is captured for one shape: that of the phase with most steps.
            self.fwd_bwd_fn = self._forward_backward_body if bags else self._of_tokens
        super().train_step(data_iterator)

    def batch_generator(self, data_iterable: Iterable[Any]) -> Iterator[Any]:
        """Batches; the speed and MFU that torchtitan shows count a bag's s labels as one latent."""
        for given, labels in super().batch_generator(data_iterable):
            if labels.ndim == 3:
                self.metrics_processor.ntokens_since_last_log -= labels.numel() - labels[..., 0].numel()
            yield given, labels


def embedding_of(model: Any) -> Any:
    """The config of the embedding inside ``tok_embeddings``; None where there is not exactly one."""
    found = list(model.tok_embeddings.traverse(Embedding.Config)) if model.tok_embeddings else []
    return found[0][1] if len(found) == 1 else None


def with_bag_embedding(model: Any, fills_bags: bool = False) -> Any:
    """A decoder's config with an embedding that takes bags as well, of the same weights, keys and initialisation."""
    ours = FilledBagEmbedding if fills_bags else BagEmbedding
    embeddings = copy(model.tok_embeddings)
    for _, stock, parent, name in list(embeddings.traverse(Embedding.Config)):
        if parent is None:
            embeddings = _extended(stock, ours)
        else:
            setattr(parent, name, _extended(stock, ours))
    model = replace(model, tok_embeddings=embeddings)
    predicts_more = isinstance(model, MTPDecoder.Config) and model.mtp_layers
    return _extended(model, BagMTPDecoder) if predicts_more else model


def _with_bag_loss(loss: BaseLoss.Config, superposition: Superposition, vocab_size: int) -> BaseLoss.Config:
    if isinstance(loss, ChunkedLossWrapper.Config):
        return replace(loss, loss_fn=_with_bag_loss(loss.loss_fn, superposition, vocab_size))
    return BagLoss.Config(
        bag_size=superposition.bag_size,
        vocab_size=vocab_size,
        name=superposition.loss,
        weights=superposition.normalized_weights(),
        inner=loss,
    )


@cache
def _extended_class(mixin: type, config_class: type) -> Any:
    extra = getattr(mixin, "EXTRA_FIELDS", [])
    config = make_dataclass("Config", extra, bases=(config_class,), kw_only=True, slots=True)
    owner: Any = config_class._owner  # type: ignore[attr-defined]
    name = mixin.__name__
    config.__qualname__ = f"{name}.Config"
    return type(name, (mixin, owner), {"Config": config, "__module__": __name__, "__doc__": owner.__doc__})


def _extended(config: Any, mixin: type, **extra: Any) -> Any:
    """The config of a class that puts ``mixin`` before the class that ``config`` builds."""
    kept = {entry.name: getattr(config, entry.name) for entry in fields(config) if entry.init}
    stock: Any = type(config)
    return _extended_class(mixin, stock).Config(**kept, **extra)
