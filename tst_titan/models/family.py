"""What every model family says about a shape: parameters, FLOPs, torchtitan's config, Hugging Face's config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Literal, get_args

from pydantic import Field, ModelWrapValidatorHandler, model_validator

from tst_titan.config.strict import PositiveFloat, PositiveInt, Strict
from tst_titan.models import Family


@dataclass(frozen=True)
class ParameterCounts:
    """How many parameters a model has, by four conventions."""

    total: int
    """Everything that is trained, both embedding matrices included (once where they are tied); expert biases are
    buffers, and are not."""
    active: int
    """What one latent can reach: ``total`` without the experts that it is not routed to."""
    non_embedding: int
    """``total`` without the input embedding and the LM head."""
    multiplied: int
    """Elements of the weight matrices that one latent is multiplied with: ``active`` without the input
    embedding, which is looked up, and without the norms' gains. FLOPs follow this number."""

    def as_manifest(self) -> dict[str, int]:
        """The three counts that a stage's manifest holds."""
        return {"total": self.total, "active": self.active, "non_embedding": self.non_embedding}


@dataclass(frozen=True)
class Layer:
    """Parameters of one layer.

    Attributes:
        matrices: elements of all its weight matrices.
        used: elements of those that one latent is multiplied with.
        gains: elements of its norms.
    """

    matrices: int
    used: int
    gains: int


@dataclass(frozen=True)
class TorchtitanParts:
    """What torchtitan needs of a family.

    Attributes:
        model: config tree of the decoder; its attention and its experts' precision are set by whoever builds it.
        parallelize: the family's parallelisation.
        adapter: maps the state dict to Hugging Face's keys.
    """

    model: Any
    parallelize: Callable[..., Any]
    adapter: type


@dataclass(frozen=True)
class BiaslessRouter:
    """A router of transformers that has no place for the biases by which torchtitan chooses experts.

    Attributes:
        model_type: of the architecture, as in config.json.
        module: name of the router in the Hugging Face model, with the layer's number to be filled in.
        choose: forward hook that replaces the router's output by that with ``router.expert_bias``.
    """

    model_type: str
    module: str
    choose: Callable[[Any, Any, Any], Any]


class MoeConfig(Strict):
    """Mixture-of-experts layers in place of the dense feed-forward."""

    n_experts: PositiveInt = Field(description="experts per layer")
    top_k: PositiveInt = Field(description="experts that process each latent")
    expert_ffn_dim: PositiveInt = Field(description="hidden width of one expert")
    load_balance_coefficient: PositiveFloat = Field(
        1e-3, description="step of torchtitan's auxiliary-loss-free bias update"
    )

    @model_validator(mode="after")
    def _top_k_within_experts(self) -> MoeConfig:
        if self.top_k > self.n_experts:
            raise ValueError(f"top_k ({self.top_k}) must not exceed n_experts ({self.n_experts})")
        return self


class ModelConfig(Strict):
    """A decoder's shape, causal over the whole window; ``family`` says what it is built of.

    Validating a mapping as a ``ModelConfig`` gives an instance of its family's class, which checks the shape further.
    """

    router_without_bias: ClassVar[BiaslessRouter | None] = None

    family: Family | Literal["recipe"] = Field(description="name of a file in tst_titan/models")
    dim: PositiveInt = Field(description="width of the residual stream")
    n_layers: PositiveInt
    n_heads: PositiveInt = Field(description="query heads")
    n_kv_heads: PositiveInt = Field(description="key and value heads; divides n_heads")
    head_dim: PositiveInt | None = Field(None, description="width of one head; default: dim / n_heads")
    ffn_dim: PositiveInt | None = Field(None, description="hidden width of the dense feed-forward")
    moe: MoeConfig | None = Field(None, description="experts instead of the dense feed-forward")
    vocab_size: PositiveInt = Field(description="rows of the embedding; at least the tokenizer's size")
    max_sequence_length: PositiveInt = Field(description="longest sequence of latents")
    rope_theta: PositiveFloat = 500000.0
    norm_eps: PositiveFloat = 1e-5
    tied_embeddings: bool = Field(False, description="embedding and LM head are one matrix")

    @model_validator(mode="wrap")
    @classmethod
    def _as_its_family(cls, content: Any, validate: ModelWrapValidatorHandler[ModelConfig]) -> ModelConfig:
        if cls is ModelConfig and isinstance(content, Mapping):
            family = class_of(content)
            return validate(content) if family is cls else family.model_validate(content)
        return validate(content)

    def layers(self) -> Iterator[Layer]:
        """The parameters of every layer."""
        raise NotImplementedError

    @property
    def attention_width(self) -> int:
        """Width of a query's product with a key plus that of its product with a value, over all heads."""
        raise NotImplementedError

    @property
    def in_transformers(self) -> bool:
        """Whether transformers has the architecture, so that the model can be exported to it and scored on tasks."""
        return True

    @property
    def exported_router(self) -> BiaslessRouter | None:
        """The router in the Hugging Face model, where it has no place for biases."""
        return self.router_without_bias if self.moe else None

    def torchtitan(self) -> TorchtitanParts:
        """The family's parts for torchtitan. Without an accelerator ``tst_titan.titan.cpu.prepare()`` comes first."""
        raise NotImplementedError

    def hugging_face(self, **beside: Any) -> Any:
        """transformers' config of the same architecture; ``beside``: what is not of its shape."""
        raise NotImplementedError

    def count_parameters(self) -> ParameterCounts:
        """Parameters, from the shape alone."""
        embedding = self.vocab_size * self.dim
        ends = embedding if self.tied_embeddings else 2 * embedding
        layers = list(self.layers())
        matrices, used = (sum(getattr(layer, name) for layer in layers) for name in ("matrices", "used"))
        gains = sum(layer.gains for layer in layers) + self.dim  # one norm at the end
        return ParameterCounts(
            total=ends + matrices + gains,
            active=ends + used + gains,
            non_embedding=matrices + gains,
            multiplied=embedding + used,
        )

    def flops_per_latent(self, sequence_length: int) -> float:
        """FLOPs of one latent's forward and backward pass in a sequence of ``sequence_length`` latents.

        Six per element of the matrices that multiply the latent (a multiplication and an addition, once forward and
        twice backward; LM head included, embedding look-up excluded) plus the two matrix products of attention over
        the whole sequence, 12 * layers * heads * head width * length where keys and values are as wide. As in PaLM
        (arXiv 2204.02311, appendix B) and in torchtitan's MFU the causal mask does not halve the attention term, and
        recomputation, norms, softmax and rotations do not count. A bag step and a token step of equal latents cost the
        same by this count: the mean over a bag's embeddings and the extra targets are sums and look-ups, not matrix
        products.
        """
        attention = self.n_layers * self.attention_width * sequence_length
        return float(6 * (self.count_parameters().multiplied + attention))

    def torchtitan_ends(self, embedding: Any, head: Any, norm: Any) -> dict[str, Any]:
        """What stands before and after torchtitan's layers, from the family's initialisations of the three.

        Tied embeddings have the head's, as in torchtitan's own flavours.
        """
        from torchtitan.models.common import Embedding, Linear, RMSNorm
        from torchtitan.models.common.param_init import skip_param_init

        if self.tied_embeddings:
            embedding = {"weight": skip_param_init}
        return {
            "enable_weight_tying": self.tied_embeddings,
            "dim": self.dim,
            "vocab_size": self.vocab_size,
            "tok_embeddings": Embedding.Config(
                num_embeddings=self.vocab_size, embedding_dim=self.dim, param_init=embedding
            ),
            "norm": RMSNorm.Config(normalized_shape=self.dim, param_init=norm),
            "lm_head": Linear.Config(in_features=self.dim, out_features=self.vocab_size, param_init=head),
        }

    def hugging_face_shape(self) -> dict[str, Any]:
        """The keys that transformers' configs of all families have in common."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "max_position_embeddings": self.max_sequence_length,
            "rope_parameters": {**self.hugging_face_rope(), "rope_theta": self.rope_theta},
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tied_embeddings,
        }

    def hugging_face_rope(self) -> dict[str, Any]:
        """How rotary frequencies are scaled, as transformers writes it."""
        return {"rope_type": "default"}

    def is_rotated(self, layer: int) -> bool:
        """Whether a layer (0 the first) has rotary positions."""
        return True

    def eps_of(self, norm: str) -> float:
        """Epsilon of the norm of that name in torchtitan's config."""
        return self.norm_eps


class GroupedQueryModel(ModelConfig):
    """What Llama's and Qwen's families share: grouped-query attention, then a gated feed-forward or experts of them."""

    @property
    def resolved_head_dim(self) -> int:
        """Width of one attention head."""
        return self.head_dim if self.head_dim is not None else self.dim // self.n_heads

    @model_validator(mode="after")
    def _shape_is_consistent(self) -> GroupedQueryModel:
        if self.head_dim is None and self.dim % self.n_heads:
            raise ValueError(f"n_heads ({self.n_heads}) must divide dim ({self.dim})")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads ({self.n_kv_heads}) must divide n_heads ({self.n_heads})")
        if self.resolved_head_dim % 2:
            raise ValueError(f"the head width ({self.resolved_head_dim}) must be even for rotary positions")
        if (self.ffn_dim is None) == (self.moe is None):
            raise ValueError("give exactly one of ffn_dim (dense) and moe (experts)")
        return self

    def layers(self) -> Iterator[Layer]:
        """Queries and outputs have n_heads, keys and values n_kv_heads; two norms of the residual stream."""
        attention = 2 * self.dim * self.resolved_head_dim * (self.n_heads + self.n_kv_heads)
        if self.moe is None:
            ffn = used = 3 * self.dim * (self.ffn_dim or 0)
        else:
            router, expert = self.dim * self.moe.n_experts, 3 * self.dim * self.moe.expert_ffn_dim
            ffn, used = router + self.moe.n_experts * expert, router + self.moe.top_k * expert
        layer = Layer(attention + ffn, attention + used, 2 * self.dim)
        return iter([layer] * self.n_layers)

    @property
    def attention_width(self) -> int:
        """Keys and values are equally wide."""
        return 2 * self.n_heads * self.resolved_head_dim

    def hugging_face_shape(self) -> dict[str, Any]:
        """With the width of a head."""
        return super().hugging_face_shape() | {"head_dim": self.resolved_head_dim}


def family_class(name: str) -> type[ModelConfig]:
    """The class of a listed family: ``Qwen3`` of qwen3.py."""
    return getattr(import_module(f"tst_titan.models.{name}"), name.title().replace("_", ""))


def class_of(content: Mapping[str, Any]) -> type[ModelConfig]:
    """The class of the family that a shape names; ``ModelConfig``, which refuses it, where none is listed."""
    name = content.get("family", "recipe" if "recipe" in content else None)
    return family_class(str(name)) if name in (*get_args(Family), "recipe") else ModelConfig


def families() -> Iterator[type[ModelConfig]]:
    """The classes of all families that are written as shapes."""
    return map(family_class, get_args(Family))
