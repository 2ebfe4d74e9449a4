"""Projects that submit to the private cluster, and what tests look at while they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.slurm.cluster import Cluster
from tests.workflow.project import REPOSITORY, ProjectCopy

# Rules whose jobs would be too large for the private cluster's nodes.
RULES = [
    *("filter_documents", "deduplicate_documents", "split_documents", "make_tokenizer", "tokenize"),
    *("data_manifest", "local_task", "export", "heldout", "evaluate_tasks"),
]
SMALL_STAGE = {"memory_mb": 1500, "wall_minutes": 10, "stop_seconds": 20}
# The command of the documentation, and what a cluster without accounting and with an impatient user needs.
COMMAND = ["--profile", "slurm", "--slurm-status-command", "squeue", "--slurm-no-account"]
COMMAND += ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"]
COMMAND += ["--latency-wait", "10"]


@dataclass(frozen=True)
class SlurmProject:
    """A copy of the project whose jobs fit the private cluster."""

    copy: ProjectCopy
    cluster: Cluster

    @classmethod
    def make(cls, folder: Path, cluster: Cluster) -> SlurmProject:
        """A new copy."""
        project = cls(ProjectCopy.make(folder), cluster)
        project.site()
        project.runtime()
        return project

    @property
    def folder(self) -> Path:
        """The copy's root."""
        return self.copy.folder

    def site(self, rules: dict[str, dict[str, Any]] | None = None, **default: Any) -> None:
        """Write the profile's site: small jobs, with changes by rule and for all of them."""
        path = self.folder / "workflow/profiles/slurm/config.yaml"
        profile = yaml.safe_load((REPOSITORY / "workflow/profiles/slurm/config.yaml").read_text())
        profile["default-resources"] |= default
        small = {"mem_mb": 1500, "runtime": 10}
        profile["set-resources"] = {rule: dict(small) for rule in RULES}
        profile["set-threads"] = dict.fromkeys(RULES, 1)
        for rule, change in (rules or {}).items():
            profile["set-resources"].setdefault(rule, {}).update(change)
        path.write_text(yaml.safe_dump(profile))

    def runtime(self, **changes: Any) -> None:
        """What stages of the smoke scale ask for and how they run."""
        path = self.folder / "configs/scales/smoke.yaml"
        content = yaml.safe_load((REPOSITORY / "configs/scales/smoke.yaml").read_text())
        content["runtime"] |= SMALL_STAGE | changes
        path.write_text(yaml.safe_dump(content, sort_keys=False))

    def scale(self, name: str, of_size: dict[str, Any], **changes: Any) -> None:
        """Write a scale like smoke in which every size is the changed small one; its recipe is ``<name>-small``."""
        folder = self.folder / "configs/scales"
        content = yaml.safe_load((folder / "smoke.yaml").read_text())
        small = {**content["sizes"]["small"], "trunks": None, **of_size}
        content["sizes"] = dict.fromkeys(("small", "medium", "large", "moe"), small)
        content["runtime"] |= SMALL_STAGE | changes.pop("runtime", {})
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content | changes, sort_keys=False))

    def start(self, *arguments: str, config: tuple[str, ...] = ("scale=smoke",)) -> Running:
        """Start snakemake as a person would, in a process group of its own (a terminal's foreground)."""
        path = f"{self.cluster.folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            ["snakemake", *COMMAND, *arguments, "--config", *config],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Under nohup or a script's & an interrupt is ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        return Running(process)

    def run(self, *arguments: str, config: tuple[str, ...] = ("scale=smoke",)) -> str:
        """Run to a good end and return what the terminal showed."""
        running = self.start(*arguments, config=config)
        assert running.wait() == 0, running.text
        return running.text

    def stage(self, lineage: str, results: str = "results") -> Path:
        """Folder of a stage of the one recipe."""
        (recipe,) = {path.name for path in (self.folder / results / "train").iterdir()}
        return self.folder / results / "train" / recipe / lineage


class Running:
    """A snakemake that runs, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process
        self.text = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, seconds: float = 600) -> int:
        """Its exit status."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGINT)
            self.process.wait(60)
            raise AssertionError(f"snakemake took too long:\n{self.text}") from None
        self._reader.join(20)
        return status

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line


def until(
    condition: Callable[[], Any], what: str, running: Running | None = None, seconds: float = 180
) -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        if running is not None and running.process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen\n{running.text if running else ''}")


def last_step(stage: Path) -> int:
    """Step of the last whole line of a stage's metrics."""
    try:
        lines = (stage / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    return max((json.loads(line)["step"] for line in lines if line.endswith("}\n")), default=0)


def curve(stage: Path) -> list[tuple[int, float, float]]:
    """Step, loss and gradient norm of every logged step."""
    lines = map(json.loads, (stage / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def jobs_of(stage: Path) -> list[dict[str, Any]]:
    """The stage's own list of its jobs."""
    return [json.loads(line) for line in (stage / "logs/jobs.jsonl").read_text().splitlines()]
