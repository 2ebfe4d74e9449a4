"""What runs begin with in place of new weights: ``<results>/start/<name>/``, rendered as a corpus's settings are.

``config.yaml`` says where the weights lie, what files are there, and which model is to begin with them. The rule
``start`` checks and hashes them; its ``manifest.json`` gives the identity of the stages that begin with them.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tst_titan.config.experiment import StartFrom
from tst_titan.config.load import read_yaml, to_yaml
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed
from tst_titan.models.family import ModelConfig
from tst_titan.tree.checkpoint import METADATA

FROM = "from_"
HUB = "hf://"
EXPORTS = "export/"
"""How paths of these results' own exports begin; all other folders are absolute."""
_WEIGHTS = (".safetensors", ".distcp")
_LONGEST = 60


def start_name(start: StartFrom) -> str:
    """A name for paths, made of what the user wrote."""
    text = start.run or (start.path or "").removeprefix(HUB)
    name = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9_.+-]+", ".", text)).strip(".-")
    if len(name) > _LONGEST:
        name = f"{name[-_LONGEST:].strip('.-')}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return name


def name_in(lineage: str) -> str | None:
    """The name of what a lineage begins with; None for new weights."""
    return lineage.partition("/")[0].partition(f"-{FROM}")[2] or None


def start_folder(results: Path, name: str) -> Path:
    """Folder of config.yaml and manifest.json."""
    return results / "start" / name


def read_start(results: Path, name: str) -> dict[str, Any]:
    """The manifest of what a run begins with.

    Raises:
        UserError: the rule ``start`` has not made it.
    """
    path = start_folder(results, name) / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; `snakemake {path}` makes it") from None


def render_start(start: StartFrom, export: str | None, model: ModelConfig, results: Path) -> None:
    """Write config.yaml, only where it changed.

    Args:
        start: as the experiment says.
        export: ``<recipe>/<lineage>`` of the run whose export it is; None if it is somebody else's.
        model: the shape that is to begin with these weights.
        results: root of all results.

    Raises:
        UserError: there is no such folder, and nothing was made from it before.
    """
    folder = start_folder(results, start_name(start))
    content: dict[str, Any] = {"path": f"{EXPORTS}{export}", "trust": start.trust}
    if export is None:
        path = start.path or ""
        content["path"] = path if path.startswith(HUB) else str(Path(path).absolute())
        if not path.startswith(HUB):
            content["files"] = _files(Path(path), folder)
    content["model"] = model.model_dump(mode="json", exclude_defaults=True)
    write_if_changed(folder / "config.yaml", to_yaml(content))


def _files(path: Path, folder: Path) -> list[list[Any]]:
    """Name, bytes and time of change (ns) of the files of weights, so that others are hashed again."""
    if path.is_dir():
        found = [each for each in sorted(path.iterdir()) if is_weights(each)]
        return [[each.name, each.stat().st_size, each.stat().st_mtime_ns] for each in found]
    if (folder / "manifest.json").is_file():  # what is finished does not need it
        return read_yaml(folder / "config.yaml").get("files", [])
    raise UserError(
        f"key start_from.path: found {str(path)!r}; there is no such folder (relative paths start from {Path.cwd()}; "
        f"a model of the hub is {HUB}owner/name)"
    )


def is_weights(path: Path) -> bool:
    """Whether a file is part of the weights, or says which files are."""
    return path.suffix in _WEIGHTS or path.name in (METADATA, "config.json", "model.safetensors.index.json")
