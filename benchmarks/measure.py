"""Interleaved timing, peak memory and the report of ratios; needs torch, and tabulate to print."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from tst_titan.text import text_table

Action = Callable[[], object]
Pages = Literal["kept", "fresh"]

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One comparison: the median over the rounds of one time by another of the same round."""

    group: str
    name: str
    shape: str
    device: str
    pages: str
    value: float
    low: float
    """Lower quartile over the rounds."""
    high: float
    """Upper quartile over the rounds."""
    target: str | None
    """``>= x`` or ``<= x``; None where nothing is asked."""
    met: bool | None


def interleave(actions: Mapping[str, Action], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every action in every round; each round runs all of them once, so they share what disturbs."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for action in actions.values():
        action()
    for _ in range(rounds):
        for name, action in actions.items():
            synchronize(device)
            start = time.perf_counter()
            action()
            synchronize(device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device; the CPU never lags behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratio(
    over: list[float],
    under: list[float],
    *,
    group: str,
    name: str,
    shape: str,
    device: torch.device,
    pages: str,
    target: str | None = None,
) -> Ratio:
    """Median and quartiles of ``over / under``, round by round."""
    low, middle, high = quartiles([a / b for a, b in zip(over, under, strict=True)])
    return Ratio(
        group=group,
        name=name,
        shape=shape,
        device=device.type,
        pages=pages,
        value=middle,
        low=low,
        high=high,
        target=target,
        met=None if target is None else is_met(middle, target),
    )


def is_met(value: float, target: str) -> bool:
    """Whether ``value`` fulfils ``>= x`` or ``<= x``."""
    comparison, bound = target.split()
    return value >= float(bound) if comparison == ">=" else value <= float(bound)


def set_pages(pages: Pages) -> bool:
    """Tell glibc's malloc what to do with freed memory; False where there is no glibc.

    ``kept``: it stays with the process and its pages are used again, as a caching allocator (CUDA's, jemalloc)
    does. ``fresh``: every large tensor is mapped anew, and the kernel zeroes each page at its first write. Left
    to itself glibc wavers between the two, depending on what ran before.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    if pages == "kept":
        return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    return bool(mallopt(_M_MMAP_MAX, 65536) and mallopt(_M_MMAP_THRESHOLD, 1 << 17))


def peak_extra_bytes(run: Action, device: torch.device) -> int:
    """Most memory that ``run`` holds beyond what it found, inside operations too."""
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    level = peak = 0
    for event in sorted((e for e in events if e["name"] == "[memory]"), key=lambda e: e["ts"]):
        level += event["args"]["Bytes"]
        peak = max(peak, level)
    return peak


def machine(device: torch.device) -> dict[str, object]:
    """What the numbers were measured on, and how busy it was."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }


def table(ratios: list[Ratio]) -> str:
    """The ratios as aligned text, one line each."""
    rows = []
    for r in ratios:
        verdict = "" if r.met is None else "met" if r.met else "MISSED"
        spread = f"{r.low:.3g}..{r.high:.3g}"
        rows.append(
            (f"{r.group}: {r.name}", f"{r.value:.3g}", spread, r.target or "", verdict, r.shape, r.pages)
        )
    heads = ("", "ratio", "quartiles", "target", "", "shape", "pages")
    return text_table(heads, rows, words=len(heads))


def write(
    path: Path, device: torch.device, ratios: list[Ratio], seconds: dict[str, dict[str, list[float]]]
) -> None:
    """JSON of the ratios, the machine and, for whoever wants to look behind them, every time measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "format": 1,
        "machine": machine(device),
        "ratios": [asdict(entry) for entry in ratios],
        "seconds": seconds,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
