"""torchtitan's recipes with bags before tokens, for torchtitan's own command line.

``torchrun ... -m torchtitan.train --module tst_titan.recipes --config llama3.llama3_8b --superposition.bag_size 8
--superposition.steps 6000``: what stands before the last dot of ``--config`` is what torchtitan takes as ``--module``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tst_titan.titan import cpu

cpu.prepare()

from torchtitan.config import ConfigManager  # noqa: E402
from torchtitan.models.common.decoder import Decoder  # noqa: E402
from torchtitan.trainer import Trainer  # noqa: E402

from tst_titan.titan.superposition import Superposition, with_flags  # noqa: E402


def __getattr__(name: str) -> Callable[[], Trainer.Config]:
    """The function that torchtitan calls for ``--config MODULE.FUNCTION``."""
    module, _, function = name.rpartition(".")
    if not module or name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; valid is MODULE.FUNCTION")
    return lambda: recipe(module, function)


def recipe(module: str, function: str) -> Trainer.Config:
    """A recipe of torchtitan's, or of any module that torchtitan takes, with the flags ``--superposition.*``.

    Raises:
        SystemExit: there is no such recipe, or it does not train by steps; torchtitan's command line is the caller.
    """
    try:
        config: Any = ConfigManager()._load_config(["--module", module, "--config", function])[0]
    except (ImportError, ValueError) as error:
        raise SystemExit(f"tst_titan: --config {module}.{function}: {error}") from None
    if not isinstance(config, Trainer.Config):
        raise SystemExit(
            f"tst_titan: --config {module}.{function}: found a {type(config).__qualname__}; "
            "valid are configs of torchtitan's Trainer"
        )
    model = None if config.model_spec is None else config.model_spec.model
    if not isinstance(model, Decoder.Config):
        raise SystemExit(
            f"tst_titan: --config {module}.{function}: found a {type(model).__qualname__}; a bag needs a decoder "
            "with one token embedding"
        )
    if not cpu.has_accelerator():
        cpu.adapt(config)
    return with_flags(config, Superposition())
