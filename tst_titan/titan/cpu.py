"""Make torchtitan run where there is no accelerator: gloo, float32, two ranks on two cores.

``prepare()`` must run before the first import of torchtitan; with an accelerator present it changes nothing.
Each entry below answers one call of torchtitan 0.3.0 that assumes CUDA.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from types import SimpleNamespace
from typing import Any

import torch


def has_accelerator() -> bool:
    """Whether torch sees a GPU or another accelerator."""
    return torch.accelerator.is_available()


def prepare() -> str:
    """Fill the gaps of ``torch.cpu`` and return the device type that training will use."""
    if has_accelerator():
        accelerator = torch.accelerator.current_accelerator()
        assert accelerator is not None
        return accelerator.type
    cpu: Any = torch.cpu
    utils: Any = torch._utils
    # torchtitan falls back to "cuda" when torch names no device.
    utils._get_available_device_type = lambda: "cpu"
    cpu.get_device_name = lambda device=None: platform.processor() or platform.machine() or "cpu"
    cpu.get_device_properties = lambda device=None: SimpleNamespace(total_memory=_physical_memory())
    cpu.memory_stats = lambda device=None: {}
    cpu.reset_peak_memory_stats = lambda device=None: None
    cpu.empty_cache = lambda: None
    cpu.current_device = lambda: 0
    _patch_torchtitan()
    return "cpu"


def peak_memory_gib() -> float:
    """Peak memory of this process: allocated on the accelerator, resident on the CPU."""
    if has_accelerator():
        return torch.accelerator.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _patch_torchtitan() -> None:
    from torchtitan.distributed import utils as dist_utils

    # It calls barrier(device_ids=...) to shorten NCCL's timeout; gloo has neither.
    dist_utils.set_pg_timeouts = lambda timeout, parallel_dims: None
    # Where torchtitan's own command line has imported it before us.
    for name, module in list(sys.modules.items()):
        if name.startswith("torchtitan.") and getattr(module, "device_type", None) == "cuda":
            vars(module).update(device_type="cpu", device_module=torch.cpu)


def adapt(config: Any) -> None:
    """Change a recipe made for GPUs, in place, so that it runs here: float32, attention over the whole window.

    Args:
        config: torchtitan's Trainer.Config.
    """
    from torchtitan.models.common import ScaledDotProductAttention
    from torchtitan.models.common.attention import BaseAttention

    for _, attention, _, _ in config.model_spec.model.traverse(BaseAttention.Config):
        if hasattr(attention, "inner_attention"):
            attention.inner_attention = ScaledDotProductAttention.Config()
    parallelize_for_gloo(config.model_spec)
    config.training.mixed_precision_param = "float32"
    config.training.disable_cuda_graphs = True
    # The one backend that works on gloo and reports the right loss (docs/architecture.md).
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        config.parallelism.spmd_backend = "partial_dtensor"


def parallelize_for_gloo(spec: Any) -> None:
    """FSDP2 scales gradients inside the reduction (PREMUL_SUM), which gloo lacks: sum, then divide.

    Args:
        spec: torchtitan's ModelSpec, changed in place.
    """
    from torch.distributed.fsdp import FSDPModule

    parallelize = spec.parallelize_fn

    def parallelize_and_sum(model: torch.nn.Module, **given: Any) -> torch.nn.Module:
        model = parallelize(model, **given)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
        return model

    spec.parallelize_fn = parallelize_and_sum
