"""Reading corpus configs from YAML, with errors that say what to mend, and rendering them for the rules."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from tst_titan.config.load import choose_file, parse_yaml, read_yaml
from tst_titan.config.load import parse as parse_config
from tst_titan.data.corpus import STEPS, CorpusConfig, corpus_identity, step_settings
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed

__all__ = [
    "CorpusConfig",
    "corpus_identity",
    "load_corpus",
    "parse",
    "read_settings",
    "render_steps",
]


def load_corpus(path: Path | str) -> CorpusConfig:
    """Read and validate a corpus config; its name is the file's.

    Raises:
        UserError: naming the file, the key, the value found and what would be valid.
    """
    path = Path(path)
    raw = read_yaml(choose_file(path.parent, path.stem, "corpus"))
    if "name" in raw:
        raise UserError(f"{path}: key name: found {raw['name']!r}; the name is the file's and is not given")
    return parse_config(CorpusConfig, raw | {"name": path.stem}, path)


def render_steps(corpus: CorpusConfig, folder: Path | str, root: Path | str = ".") -> dict[str, Path]:
    """Write the settings of each step to <folder>/config/<step>.yaml, only where the content changes.

    Snakemake takes these files as inputs, so a step runs again when its own settings change.

    Args:
        corpus: the config.
        folder: results/data/<corpus>.
        root: the folder that relative paths of the config start from.

    Returns:
        The path of each step's file.
    """
    settings = step_settings(corpus, Path(root))
    paths = {}
    for step in STEPS:
        paths[step] = Path(folder) / "config" / f"{step}.yaml"
        header = f"# Settings of the step {step} of corpus {corpus.name}, written by the pipeline.\n"
        write_if_changed(paths[step], header + yaml.safe_dump(settings[step], sort_keys=True))
    return paths


def read_settings(path: Path | str) -> dict[str, Any]:
    """Settings of a step as `render_steps` wrote them.

    Raises:
        UserError: they have not been rendered.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: the settings of this step are missing; render the corpus config first")
    return parse_yaml(Path(path).read_text(encoding="utf-8"))


def parse(kind: Any, value: Any) -> Any:
    """Turn plain settings back into the typed config that wrote them."""
    return TypeAdapter(kind).validate_python(value)
