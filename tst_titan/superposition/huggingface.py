"""Bags in Hugging Face's Trainer: any ``AutoModelForCausalLM`` reads bags for so many steps, then tokens as ever.

The data say what a step reads, so prefetching, workers, several processes and resumption need nothing more: a bag is an
``input_ids`` with one dimension more, and model, loss and collator go by that shape. Needs transformers beside torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import Dataset, SequentialSampler
from transformers import Trainer, TrainingArguments, default_data_collator

from .autograd import bag_loss
from .embedding import bag_embedding
from .losses import loss_of
from .weights import target_weights


class BagRows(Dataset):
    """Rows of packed text as the examples of two phases: windows of bags, then the rows themselves.

    The rows are cut into as many lanes as a step has sequences, and sequence i of every step reads on in lane i. So the
    phases never read the same token, and the sequences of a batch come from places far apart. Read in order.
    """

    def __init__(self, rows: Any, *, bag_size: int, bag_steps: int, sequences_per_step: int):
        """Args:
            rows: ``rows[i]["input_ids"]`` holds L token ids, the same L for all, in the order of the text.
            bag_size: s, tokens per bag.
            bag_steps: steps that read bags.
            sequences_per_step: of all processes and accumulated batches together.

        Raises:
            ValueError: too few rows, or arguments out of range.
        """
        if bag_size < 2:
            raise ValueError(f"bag_size: {bag_size} is not valid; it must be a whole number of at least 2")
        if bag_steps < 1:
            raise ValueError(f"bag_steps: {bag_steps} is not valid; it must be a whole number of at least 1")
        self.rows, self.bag_size, self.bag_steps = rows, bag_size, bag_steps
        self.lanes, self.lane = sequences_per_step, len(rows) // sequences_per_step
        self.latents = len(rows[0]["input_ids"]) if len(rows) else 0
        # Rows of a window: its bags and the bag after the last.
        self.window = -(-bag_size * (self.latents + 1) // max(self.latents, 1))
        needed = ((bag_steps - 1) * bag_size + self.window) * sequences_per_step
        if len(rows) < needed:
            raise ValueError(
                f"train_dataset: {len(rows):,} rows are not enough for {bag_steps:,} steps of bags of {bag_size}; "
                f"there must be {needed:,} and one more for every sequence of a token step"
            )

    @property
    def steps(self) -> int:
        """Steps of both phases that the rows last for."""
        return self.bag_steps + self.lane - self.bag_steps * self.bag_size

    def __len__(self) -> int:
        return self.steps * self.lanes

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A row, or in the bag phase ``input_ids`` of shape (L + 1, s): the bags of a window and the one after."""
        step, lane = divmod(index, self.lanes)
        first = lane * self.lane
        if step >= self.bag_steps:
            return self.rows[first + self.bag_steps * self.bag_size + step - self.bag_steps]
        first += step * self.bag_size
        read = (torch.as_tensor(self.rows[first + i]["input_ids"]) for i in range(self.window))
        tokens = torch.cat(list(read))
        if len(tokens) != self.window * self.latents:
            raise ValueError(
                f"train_dataset: rows {first} to {first + self.window - 1} are not valid; every row must have "
                f"{self.latents} tokens, as row 0: pack the text first"
            )
        return {"input_ids": tokens[: self.bag_size * (self.latents + 1)].view(-1, self.bag_size)}


class BagCollator:
    """Bags become inputs and labels (B, L, s); everything else is the given collator's."""

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]] = default_data_collator):
        self.collator = collator

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """A batch; ``labels`` are the ``input_ids`` where the collator gives none, as causal models want them."""
        if getattr(examples[0]["input_ids"], "ndim", 1) == 2:
            bags = torch.stack([example["input_ids"] for example in examples])
            return {"input_ids": bags[:, :-1], "labels": bags[:, 1:]}
        batch = self.collator(examples)
        return batch if "labels" in batch else {**batch, "labels": batch["input_ids"].clone()}


def accept_bags(model: nn.Module) -> nn.Module:
    """Let a model of transformers take ``input_ids`` (B, L, s): bags enter as ``inputs_embeds``.

    No weight and no key changes. It is a hook inside the model's own forward pass, so that wrappers for several
    devices see it.
    """
    model.register_forward_pre_hook(_embed_bags, with_kwargs=True)
    return model


def _embed_bags(model: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    bags = given.get("input_ids")
    if bags is None or bags.ndim == 2:
        return args, given
    embedding = model.get_input_embeddings()
    if type(embedding) is nn.Embedding:
        mean = bag_embedding(embedding.weight, bags)
    else:  # one that does more than look up, as Gemma's, which scales
        mean = sum(embedding(bags[..., k]) for k in range(bags.shape[2])) / bags.shape[2]
    return args, {**given, "input_ids": None, "inputs_embeds": mean}


class SuperposedTrainer(Trainer):
    """transformers' Trainer, reading bags in its first steps: the same arguments, and those of the bags."""

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        *,
        bag_size: int,
        bag_steps: int,
        loss: str = "mce",
        weights: str | Sequence[float] = "uniform",
        **given: Any,
    ):
        """Args:
            model: any causal language model.
            args: with ``max_steps``, the steps of both phases.
            data_collator: of token batches; default: rows are stacked and labels are the inputs.
            train_dataset: rows of packed text of one length, in order (``BagRows``).
            bag_size: s, tokens per bag.
            bag_steps: steps that read bags.
            loss: of a bag, one of ``tst_titan.superposition.LOSSES``.
            weights: of a bag's targets, as for ``target_weights``.
            given: the rest of Trainer's arguments.

        Raises:
            ValueError: an argument that does not fit, with what would.
        """
        args = TrainingArguments() if args is None else args
        if args.max_steps < bag_steps:
            raise ValueError(
                f"args.max_steps: {args.max_steps} is not valid; give the steps of both phases, at least the "
                f"{bag_steps} of bag_steps"
            )
        sequences = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        rows = BagRows(train_dataset, bag_size=bag_size, bag_steps=bag_steps, sequences_per_step=sequences)
        if args.max_steps > rows.steps:
            raise ValueError(
                f"args.max_steps: {args.max_steps} is not valid; {len(train_dataset):,} rows last for {rows.steps} "
                f"steps of {sequences} sequences, {bag_steps} of them with bags of {bag_size}"
            )
        places = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        if places is not None and rows.latents > places:
            raise ValueError(
                f"train_dataset: rows of {rows.latents} tokens are not valid; "
                f"the model has positions for {places} latents"
            )
        self.bag_loss_name, self.bag_size, self.rows = loss, bag_size, rows
        self.target_weights = target_weights(weights, bag_size) if loss_of(loss).takes_weights else None
        collator = BagCollator(data_collator or default_data_collator)
        super().__init__(model, args, collator, train_dataset=rows, **given)
        accept_bags(cast(nn.Module, self.model))

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(self.rows)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """For bags the mean over latents, which starts near ln V; for tokens Trainer's own loss."""
        if inputs["input_ids"].ndim == 2:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"].flatten(0, 1)
        outputs = model(input_ids=inputs["input_ids"], use_cache=False)
        logits = outputs.logits.flatten(0, 1)
        weights = None if self.target_weights is None else self.target_weights.to(logits.device)
        mean = bag_loss(self.bag_loss_name, logits, labels, weights) / len(labels)
        normalised = self.model_accepts_loss_kwargs or self.compute_loss_func is not None
        if normalised and num_items_in_batch is not None:
            # Trainer takes a loss of such a model for one that is divided by the whole step's items already.
            mean = mean / self.current_gradient_accumulation_steps
        return (mean, outputs) if return_outputs else mean

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """FLOPs follow latents, one a bag."""
        if inputs["input_ids"].ndim == 3:
            inputs = {**inputs, "input_ids": inputs["input_ids"][..., 0]}
        return super().floating_point_ops(inputs)

    def log(self, logs: dict[str, float], *args: Any, **given: Any) -> None:
        """Says with each loss what its step read: 1 is tokens."""
        if "loss" in logs:
            bags = self.state.global_step <= self.rows.bag_steps
            logs["bag_size"] = self.bag_size if bags else 1
        super().log(logs, *args, **given)
