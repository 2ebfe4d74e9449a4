"""The base of everything that people write in YAML, and the kinds of numbers in it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Strict: YAML's `true` is no number, and "3" in quotes is a text. Beyond 10^15 nobody means a count.
Int = Annotated[int, Field(strict=True)]
Float = Annotated[float, Field(strict=True)]
PositiveInt = Annotated[Int, Field(gt=0, le=10**15)]
NonNegativeInt = Annotated[Int, Field(ge=0, le=10**15)]
PositiveFloat = Annotated[Float, Field(gt=0)]
NonNegativeFloat = Annotated[Float, Field(ge=0)]
Fraction = Annotated[Float, Field(gt=0, le=1)]
# A run of 10^9 steps takes years; more is a typing mistake.
Steps = Annotated[Int, Field(gt=0, le=10**9)]


class Strict(BaseModel):
    """Base of all configs: frozen, no unknown keys, no infinite numbers; its number types coerce nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
