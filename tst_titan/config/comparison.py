"""How runs are compared: what a user may set (docs/comparison.md explains each)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tst_titan.config.strict import Float, Int, NonNegativeInt, PositiveInt, Strict


class ComparisonOptions(Strict):
    """How the numbers of a comparison are computed."""

    last_k: PositiveInt = Field(10, description="logged steps averaged into the final loss")
    smoothing_window: PositiveInt = Field(11, description="logged steps that a local line is fitted to; odd")
    confidence: Annotated[Float, Field(gt=0, lt=1)] = 0.95
    bootstrap_samples: Annotated[Int, Field(ge=20)] = 400
    bootstrap_seed: NonNegativeInt = 0
    curve_points: Annotated[Int, Field(ge=10)] | None = Field(
        None, description="points per run in curves.csv; default: depends on the number of runs"
    )
    equal_tolerance: Annotated[Float, Field(ge=0, lt=0.5)] = Field(
        0.02, description="relative gap that still counts as equal"
    )
    accuracy: Literal["acc_norm_first", "acc"] = Field(
        "acc_norm_first", description="acc_norm where a task has it, else acc; or acc always"
    )

    @property
    def redraws(self) -> tuple[float, int, int]:
        """Level, number and seed of the redraws behind an interval."""
        return (self.confidence, self.bootstrap_samples, self.bootstrap_seed)

    @model_validator(mode="after")
    def _odd_window(self) -> ComparisonOptions:
        if self.smoothing_window % 2 == 0:
            raise ValueError(f"smoothing_window ({self.smoothing_window}) must be odd")
        return self
