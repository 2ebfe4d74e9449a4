"""A copy of the project on which tests run Snakemake and edit files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.shipped import copy_configs

REPOSITORY = Path(__file__).parents[2]
COPIED = ("Snakefile", "workflow", "envs", "tst_titan", "slurm")


@dataclass(frozen=True)
class ProjectCopy:
    """A folder with the project's own files."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> ProjectCopy:
        """Copy what Snakemake reads."""
        folder.mkdir(parents=True, exist_ok=True)
        copy_configs(folder)
        for name in COPIED:
            source = REPOSITORY / name
            if source.is_symlink():
                (folder / name).symlink_to(source.readlink())
            elif source.is_dir():
                shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, folder / name)
        return cls(folder)

    def snakemake(
        self, *arguments: str, config: tuple[str, ...] = ("scale=smoke",)
    ) -> subprocess.CompletedProcess:
        """Run snakemake here."""
        return subprocess.run(
            self.command(*arguments, config=config),
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
        )

    def command(self, *arguments: str, config: tuple[str, ...] = ("scale=smoke",)) -> list[str]:
        """The command of snakemake."""
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--config", *config]

    def environment(self) -> dict[str, str]:
        """The environment's own commands first on the path, and this folder's package for them."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SNAKEMAKE")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        return environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.folder)}

    def run(self, *arguments: str, config: tuple[str, ...] = ("scale=smoke",)) -> subprocess.CompletedProcess:
        """Run snakemake and expect success."""
        done = self.snakemake(*arguments, config=config)
        if done.returncode:
            raise AssertionError(f"snakemake failed:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
        return done

    def would_run(self, *arguments: str, config: tuple[str, ...] = ("scale=smoke",)) -> dict[str, int]:
        """Jobs by rule that a dry run names, without the target itself."""
        done = self.run("-n", *arguments, config=config)
        text = done.stdout + done.stderr
        if "Nothing to be done" in text:
            return {}
        table = text[text.index("Job stats:") :]
        jobs = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
        return {name: count for name, count in jobs.items() if name not in ("all", "total")}

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace the one occurrence of ``old`` in a file."""
        file = self.folder / path
        text = file.read_text()
        assert text.count(old) >= 1, f"{path} does not contain {old!r}"
        file.write_text(text.replace(old, new, 1))

    def restore(self, path: str) -> None:
        """Bring back the repository's version of a file."""
        shutil.copy(REPOSITORY / path, self.folder / path)
