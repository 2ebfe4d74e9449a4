"""The base of everything that people write in YAML, and the kinds of numbers in it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Strict(BaseModel):
    """Base of all configs: frozen, no unknown keys, no silent coercion of strings to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
