"""How fast this kind of processor trained, from the manifests of finished stages."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from tst_titan.files import read_json


def processor_name() -> str:
    """The CPU's model, as manifests name the device of a stage that trained without an accelerator."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Speed:
    """Training speed of one process on this kind of processor.

    Attributes:
        flops_per_second: of all the stages together, by their own count of FLOPs.
        stages: how many it was measured on.
        processor: which kind.
    """

    flops_per_second: float
    stages: int
    processor: str

    @classmethod
    def measured(cls, results: Path, models: set[int]) -> Speed | None:
        """From the finished stages under ``results``; None where no stage trained on such a processor.

        Args:
            results: root of the results.
            models: parameters of the models that will be trained. Where some of them were, the others do not count:
                a wider model makes more of a core.
        """
        processor = processor_name()
        manifests = [read_json(path, {}) for path in sorted((results / "train").rglob("manifest.json"))]
        here = [
            found
            for found in manifests
            if (machine := found.get("machine", {})).get("accelerators") == 0
            and machine.get("device") == processor
            and found.get("stage_device_hours")
        ]
        alike = [found for found in here if found["parameters"]["total"] in models] or here
        if not alike:
            return None
        seconds = 3600 * sum(found["stage_device_hours"] for found in alike)
        return cls(sum(found["stage_flops"] for found in alike) / seconds, len(alike), processor)
