"""The model of any torchtitan recipe: ``recipe: {module: qwen3, config: qwen3_0_6b}`` in a model file is all it takes.

Shape and counts are read off the recipe's own config and off its model on the meta device, once, when the file is read.
They stand in stage.yaml: planning and training know them without building the model again, and a stage's identity
covers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from tst_titan.config.strict import PositiveInt, Strict
from tst_titan.models.family import BiaslessRouter, ModelConfig, ParameterCounts, TorchtitanParts, families


class RecipeName(Strict):
    """Where a recipe stands: what torchtitan's command line takes as ``--module`` and ``--config``."""

    module: str = Field(
        description="a module of torchtitan.models, or any that can be imported", pattern=r"^\w+(\.\w+)*$"
    )
    config: str = Field(description="name of a function in its config_registry")


class RecipeCounts(Strict):
    """Parameters by the conventions of `ParameterCounts`, and what FLOPs of attention follow."""

    total: PositiveInt
    active: PositiveInt
    non_embedding: PositiveInt
    multiplied: PositiveInt
    attention_width: PositiveInt = Field(description="widths of a key and a value, over all heads")


class Recipe(ModelConfig):
    """A recipe's model; optimizer, schedule, data and layout of the recipe are not used.

    A model file has the keys ``recipe`` and perhaps ``hugging_face_config``; the others are read off the recipe.
    """

    family: Literal["recipe"] = Field("recipe", description="set by the key recipe")
    recipe: RecipeName = Field(description="of torchtitan's")
    hugging_face_config: dict[str, Any] | None = Field(
        None,
        description="config.json of the same architecture, with model_type, for export and tasks; without it the model "
        "is measured on held-out text only",
    )
    counts: RecipeCounts

    @model_validator(mode="wrap")
    @classmethod
    def _read_off(cls, content: Any, validate: ModelWrapValidatorHandler[Recipe]) -> Recipe:
        if not isinstance(content, Mapping) or "counts" in content:
            return validate(content)  # as stage.yaml has it
        own = {"family", "recipe", "hugging_face_config"}
        if extra := [key for key in content if key in cls.model_fields and key not in own]:
            raise _refusal(extra[0], content[extra[0]], "a recipe has its own; leave it out")
        try:
            name = RecipeName.model_validate(content.get("recipe"))
        except ValidationError as error:
            # The other keys are not the reader's mistake.
            problems: Any = [{**each, "loc": ("recipe", *each["loc"])} for each in error.errors()]
            raise ValidationError.from_exception_data("Recipe", problems) from None
        from tst_titan.titan.recipe import RefusedError, facts_of

        try:
            facts = facts_of(name.module, name.config)
        except RefusedError as error:
            raise _refusal(f"recipe.{error.key}", error.found, str(error)) from None
        found = content.get("hugging_face_config")
        if found is not None and "model_type" not in found:
            raise _refusal("hugging_face_config", found, "it needs model_type, as in config.json")
        return validate({**content, **facts})

    @property
    def attention_width(self) -> int:
        """As torchtitan counts FLOPs."""
        return self.counts.attention_width

    @property
    def in_transformers(self) -> bool:
        """Whether a config was given."""
        return self.hugging_face_config is not None

    @property
    def hugging_face_type(self) -> str | None:
        """``model_type`` of the config that was given."""
        return self.hugging_face_config["model_type"] if self.hugging_face_config else None

    @property
    def exported_router(self) -> BiaslessRouter | None:
        """That of the family that is exported as the same architecture."""
        routers = [family.router_without_bias for family in families()]
        return next((each for each in routers if each and each.model_type == self.hugging_face_type), None)

    def count_parameters(self) -> ParameterCounts:
        """Of the model built on the meta device."""
        return ParameterCounts(**self.counts.model_dump(exclude={"attention_width"}))

    def torchtitan(self) -> TorchtitanParts:
        """The recipe's model, parallelisation and adapter."""
        from tst_titan.titan.recipe import model_spec

        spec = model_spec(self.recipe.module, self.recipe.config)
        return TorchtitanParts(spec.model, spec.parallelize_fn, spec.state_dict_adapter)

    def hugging_face(self, **beside: Any) -> Any:
        """The config that was given; None without."""
        from transformers import AutoConfig

        if self.hugging_face_config is None:
            return None
        content = {**self.hugging_face_config, **beside}
        return AutoConfig.for_model(content.pop("model_type"), **content)


def _refusal(key: str, found: Any, reason: str) -> ValidationError:
    """A mistake at a key, which the reader of configs names."""
    problem = PydanticCustomError("recipe", "{reason}", {"reason": reason})
    return ValidationError.from_exception_data(
        "Recipe", [InitErrorDetails(type=problem, loc=tuple(key.split(".")), input=found)]
    )
