"""torchtitan's optimizers by group of parameters: AdamW with settings of their own, Muon for matrices."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Shard
from torch.optim import Optimizer
from torchtitan.components.optimizer import OptimizersContainer, ParamGroupConfig
from torchtitan.distributed.flex_shard import BucketConfig, ComputeLayout, Owned
from torchtitan.protocols.module import Module

from tst_titan.config.schema import MuonConfig, OptimizerConfig, OptimizerOptions
from tst_titan.errors import UserError
from tst_titan.titan import cpu

WORDS = {
    "norms": r"(^|\.)[^.]*norm[^.]*\.weight$",
    "biases": r"(^|[._])bias[^.]*$",
    "embeddings": r"^tok_embeddings\.",
    "head": r"^lm_head\.",
}
"""What a word of ``match`` and ``no_decay`` means. A model may lack some of it; a pattern must match something."""
MUON = "Muon"
DIST_MUON = "DistMuon"
Shapes = Mapping[str, torch.Size]


class Muon(torch.optim.Muon):
    """torch's Muon on every matrix of a stack (experts, rows, columns) as well; for processes without a GPU.

    torchtitan's DistMuon makes the same update and needs CUDA.
    """

    def __init__(self, params: Any, **options: Any):
        # Its own refuses stacks; this sets the same defaults and takes them in.
        groups = list(params)
        super().__init__([torch.nn.Parameter(torch.empty(1, 1))], **options)
        defaults = dict(self.defaults)
        Optimizer.__init__(self, groups, defaults)

    def _init_group(self, group: Any, *lists: list[torch.Tensor]) -> bool:
        found: tuple[list[torch.Tensor], ...] = ([], [], [])
        complex_ones = super()._init_group(group, *found)
        for into, tensors in zip(lists, found, strict=True):
            for tensor in tensors:
                into.extend(_matrices(tensor))
        return complex_ones


def _matrices(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    """The matrices of a parameter or of what belongs to it, as views; of a sharded stack those of this rank."""
    if tensor.ndim == 2:
        return [tensor]
    if isinstance(tensor, DTensor):
        if any(isinstance(placement, Shard) and placement.dim for placement in tensor.placements):
            raise UserError(
                "key optimizer.muon: found experts that are sharded inside their matrices; without GPUs it needs "
                "whole experts on every rank: at most as many shards as experts"
            )
        tensor = tensor.to_local()
    return tensor.unbind(0)


class StageOptimizers(OptimizersContainer):
    """torchtitan's container, which knows Muon for processes without a GPU too."""

    @dataclass(kw_only=True, slots=True)
    class Config(OptimizersContainer.Config):
        pass

    @staticmethod
    def _resolve_optimizer_factory(name: str) -> Callable[..., Optimizer]:
        return Muon if name == MUON else OptimizersContainer._resolve_optimizer_factory(name)


def parameter_shapes(model: Module.Config) -> Shapes:
    """Shapes of a model's trained parameters by torchtitan's names, without memory for them."""
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in model.build().named_parameters()}


def optimizer_config(
    options: OptimizerConfig, model: Module.Config, where: str
) -> OptimizersContainer.Config:
    """The torchtitan config of a stage's optimizers.

    Args:
        options: of the stage.
        model: torchtitan's config of the model.
        where: names the stage's file in errors.

    Raises:
        UserError: a pattern matches no parameter.
    """
    everything = {
        "lr": options.learning_rate,
        "betas": (options.beta1, options.beta2),
        "eps": options.eps,
        "weight_decay": options.weight_decay,
    }
    rest = ParamGroupConfig(pattern=".*", optimizer_name="AdamW", optimizer_kwargs=everything)
    if not (options.no_decay or options.groups or options.muon):
        return StageOptimizers.Config(param_groups=[rest], implementation="fused")
    shapes = parameter_shapes(model)
    check_patterns(options, shapes, where)
    # torchtitan wants every group to have parameters, and decay and the other settings in one group.
    left = dict(shapes)
    groups = []

    def take(names: Iterable[str], optimizer_name: str, settings: dict[str, Any]) -> None:
        taken = [name for name in names if left.pop(name, None) is not None]
        if taken:
            groups.append(ParamGroupConfig(pattern=_exactly(taken), optimizer_name=optimizer_name,
                                           optimizer_kwargs=settings))  # fmt: skip

    undecayed = {name for pattern in options.no_decay for name in _matched(pattern, shapes)}
    for group in options.groups:
        settings = everything | {
            "lr": options.learning_rate * group.learning_rate_times,
            "betas": (group.beta1 or options.beta1, group.beta2 or options.beta2),
        }
        if group.weight_decay is not None:
            settings["weight_decay"] = group.weight_decay
        matched = _matched(group.match, shapes)
        if group.weight_decay is None:
            take([name for name in matched if name in undecayed], "AdamW", settings | {"weight_decay": 0.0})
        take(matched, "AdamW", settings)
    take([name for name in shapes if name in undecayed], "AdamW", everything | {"weight_decay": 0.0})
    of_factory = {}
    if options.muon:
        matrices = {name: shape for name, shape in left.items() if _is_matrix(name, shape)}
        on_gpus = cpu.has_accelerator()
        take(matrices, DIST_MUON if on_gpus else MUON, _muon(options, options.muon))
        if on_gpus:
            of_factory = {DIST_MUON: dist_muon_layouts(matrices)}
    if left:
        groups.append(rest)
    return StageOptimizers.Config(
        param_groups=groups, implementation="fused", optimizer_factory_kwargs_by_name=of_factory
    )


def check_patterns(options: OptimizerOptions, shapes: Shapes, where: str) -> None:
    """Refuse a pattern that matches no parameter.

    Raises:
        UserError: with key, value and the nearest names.
    """
    given = {f"no_decay.{number}": pattern for number, pattern in enumerate(options.no_decay)}
    given |= {f"groups.{number}.match": group.match for number, group in enumerate(options.groups)}
    for key, pattern in given.items():
        if pattern not in WORDS and not _matched(pattern, shapes):
            raise UserError(
                f"{where}: key optimizer.{key}: found {pattern!r}, which matches no parameter; the nearest are: "
                f"{', '.join(_nearest(pattern, shapes))}. It is searched in torchtitan's names; words for many are: "
                f"{', '.join(WORDS)}"
            )


def _matched(pattern: str, shapes: Shapes) -> list[str]:
    return [name for name in shapes if re.search(WORDS.get(pattern, pattern), name)]


def _exactly(names: Iterable[str]) -> str:
    return f"^({'|'.join(map(re.escape, names))})$"


def _is_matrix(name: str, shape: torch.Size) -> bool:
    """A matrix, or a stack of them, inside the layers: embeddings and head are AdamW's (arXiv 2502.16982, 2.2)."""
    bias = re.search(WORDS["biases"], name)
    return name.startswith("layers.") and len(shape) in (2, 3) and not bias


def _muon(options: OptimizerConfig, muon: MuonConfig) -> dict[str, Any]:
    return {
        "lr": options.learning_rate * muon.learning_rate_times,
        "weight_decay": options.weight_decay,
        "momentum": muon.momentum,
        "nesterov": muon.nesterov,
        "ns_steps": muon.newton_schulz_steps,
        "adjust_lr_fn": muon.scaling,
        "fused": False,
        "foreach": False,
    }


def dist_muon_layouts(matrices: Shapes) -> dict[str, Any]:
    """Arguments of torchtitan's Muon: a matrix is one rank's work, of a stack each rank has some matrices."""
    axes = ("dp_shard", "fsdp", "efsdp", "ep")
    whole = ComputeLayout(shardings_by_mesh_axis=dict.fromkeys(axes, Owned()))
    stack = ComputeLayout(shardings_by_mesh_axis=dict.fromkeys(axes, Shard(0)))
    layouts = {name: whole if len(shape) == 2 else stack for name, shape in matrices.items()}
    buckets: dict[str, list[str]] = {}
    for name, layout in layouts.items():
        kind = "matrices" if layout is whole else "experts"
        buckets.setdefault(f"{'.'.join(name.split('.')[:2])}.{kind}", []).append(name)
    return {
        "compute_sharding_by_fqn": layouts,
        "bucket_configs": [BucketConfig(name=name, patterns=tuple(all_)) for name, all_ in buckets.items()],
    }


def _nearest(pattern: str, shapes: Shapes) -> list[str]:
    """Parameters of which a part resembles the pattern most, one of each kind of layer."""
    plain = re.sub(r"\\(.)", r"\1", pattern).strip("^$.*")
    kinds = {re.sub(r"\.\d+\.", ".N.", name): name for name in reversed(list(shapes))}

    def likeness(name: str) -> float:
        words, length = name.split("."), plain.count(".") + 1
        parts = [".".join(words[start : start + length]) for start in range(len(words))]
        return max(difflib.SequenceMatcher(None, plain, part).ratio() for part in parts)

    return sorted(kinds.values(), key=likeness, reverse=True)[:3]
