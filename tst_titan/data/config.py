"""Reading corpus configs from YAML, with errors that say what to mend, and rendering them for the rules."""

import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from tst_titan.config.load import parse_yaml
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

Model = TypeVar("Model", bound=BaseModel)


def load_corpus(path: Path | str) -> CorpusConfig:
    """Read and validate a corpus config; its name is the file's.

    Raises:
        UserError: naming the file, the key, the value found and what would be valid.
    """
    path = Path(path)
    try:
        raw = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        known = sorted(p.stem for p in path.parent.glob("*.yaml"))
        raise UserError(f"{path}: no such corpus config; there are: {', '.join(known) or 'none'}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected keys and values, found {type(raw).__name__}")
    if "name" in raw:
        raise UserError(f"{path}: name: found {raw['name']!r}; the name is the file's and is not given")
    return validated(CorpusConfig, raw | {"name": path.stem}, str(path))


def validated(model: type[Model], raw: dict[str, Any], where: str) -> Model:
    """Validate `raw`; `where` names it in messages.

    Raises:
        UserError: one line for each mistake.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [describe(model, dict(mistake)) for mistake in error.errors()]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def describe(model: type[BaseModel], mistake: dict[str, Any]) -> str:
    """One mistake of pydantic's list as a sentence: key, value found, what would be valid."""
    location = tuple(mistake["loc"])
    key = ".".join(str(part) for part in location) or "(whole file)"
    if mistake["type"] == "extra_forbidden":
        known = sorted(keys_at(model, location[:-1]))
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"unknown key {key}; {hint}valid keys here: {', '.join(known)}"
    if mistake["type"] == "missing":
        return f"key {key} is missing"
    message = mistake["msg"].removeprefix("Value error, ")
    return f"{key}: found {_short(mistake['input'])}; {message[0].lower()}{message[1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Keys that are valid at a place of a config; `location` is pydantic's, with tags of unions."""
    models = [model]
    for part in location:
        if isinstance(part, int):
            continue
        tagged = [m for m in models if "kind" in m.model_fields and part in _tags(m)]
        if tagged:
            models = tagged
            continue
        fields = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [inner for annotation in fields for inner in _models_in(annotation)]
    return {name for m in models for name in m.model_fields}


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    return typing.get_args(model.model_fields["kind"].annotation)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation may hold, through unions, tuples and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is not None:
        return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]
    return []


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
