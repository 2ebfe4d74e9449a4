"""What of a recipe only torchtitan can check: ``python -m tst_titan.titan.check``, before any job is planned.

Reads a JSON list from stdin and writes one of the mistakes to stdout (``tst_titan/run/recipes.py``). Hardware is not
asked for: jobs may run on another machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tst_titan.config.schema import RuntimeConfig, StageConfig
from tst_titan.errors import UserError
from tst_titan.titan import cpu

NEEDS_ITS_HARDWARE = "parallelism.enable_fsdp_symm_mem"


def mistakes(asked: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for every stage with a mistake.

    Args:
        asked: mappings with ``where``, ``stage`` and ``runtime``.
    """
    from torchtitan.config.configs import CompileConfig, TrainingConfig
    from torchtitan.trainer import Trainer

    from tst_titan.titan.job import activation_checkpoint
    from tst_titan.titan.keys import with_keys
    from tst_titan.titan.models import build_model_spec
    from tst_titan.titan.optimizers import optimizer_config

    for each in asked:
        stage, runtime = (
            StageConfig.model_validate(each["stage"]),
            RuntimeConfig.model_validate(each["runtime"]),
        )
        spec = build_model_spec(stage.model)
        config = Trainer.Config(
            model_spec=spec,
            activation_checkpoint=activation_checkpoint(runtime.activation_checkpoint),
            compile=CompileConfig(enable=runtime.compile),
            training=TrainingConfig(disable_cuda_graphs=True),
        )
        keys = {
            key: value for key, value in (stage.titan | runtime.titan).items() if key != NEEDS_ITS_HARDWARE
        }
        try:
            optimizer_config(stage.optimizer, spec.model, each["where"])
            with_keys(config, keys, each["where"])
        except UserError as error:
            yield str(error)


if __name__ == "__main__":
    cpu.prepare()
    json.dump(list(mistakes(json.load(sys.stdin))), sys.stdout)
