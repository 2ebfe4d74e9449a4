"""float8 and MXFP8 training through torchtitan's converters, refused where hardware or torchao is missing."""

from __future__ import annotations

from typing import Any

from torchtitan.components.quantization import (
    Float8GroupedExpertsConverter,
    Float8LinearConverter,
    MXFP8GroupedExpertsConverter,
    MXFP8LinearConverter,
)

from tst_titan.config.schema import Precision
from tst_titan.errors import UserError


def quantized(model: Any, precision: Precision, *, compiled: bool, experts: bool, where: str) -> Any:
    """A decoder's config whose matrix products inside the layers have ``precision``; other precisions change nothing.

    Head and routers stay in bfloat16, as in torchtitan's own recipes.

    Args:
        model: torchtitan's config, changed in place.
        precision: of the stage.
        compiled: whether torch.compile is on, which these kernels want.
        experts: whether there are experts to convert.
        where: names the stage's file in errors.

    Raises:
        UserError: torchao, the hardware, or a dispatcher for padded experts is missing.
    """
    shared: dict[str, Any] = {"model_compile_enabled": compiled}
    converters: list[Any] = []
    if precision == "float8":
        converters.append(Float8LinearConverter.Config(filter_fqns=["lm_head", "router.gate"], **shared))
        converters += [Float8GroupedExpertsConverter.Config(**shared)] if experts else []
    elif precision == "mxfp8":
        inside = ["attention", "shared_experts", "feed_forward"]
        converters.append(MXFP8LinearConverter.Config(fqns=inside, **shared))
        converters += [MXFP8GroupedExpertsConverter.Config(pad_multiple=128, **shared)] if experts else []
    try:
        for converter in converters:
            model = converter.build().convert(model)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"{where}: key precision: found {precision!r}: {error} What works here: float32, bfloat16"
        ) from None
    return model
