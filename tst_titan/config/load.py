"""Read YAML into typed configs, with errors that name the file, the key, the value and what would be valid."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tst_titan.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


# Planning thousands of stages spends most of its time in YAML; libyaml is faster and writes the same bytes.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _NumberAwareLoader(_Loader):
    """YAML 1.1 reads ``2e-3`` as a string; people who write learning rates mean a number."""


_NumberAwareLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str) -> Any:
    """What a YAML text holds, ``2e-3`` being a number.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, Loader=_NumberAwareLoader)


def to_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML, keys in their order."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, width=100)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: the file is missing, is not YAML, or does not hold a mapping.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    return content


def choose_file(folder: Path, name: str, kind: str) -> Path:
    """``folder/name.yaml``.

    Raises:
        UserError: there is no such file; lists the known names and the nearest one.
    """
    path = folder / f"{name}.yaml"
    if path.is_file():
        return path
    known = sorted(p.stem for p in folder.glob("*.yaml"))
    raise UserError(
        f"unknown {kind} {name!r}{did_you_mean(name, known)}; {folder} has: {', '.join(known) or 'none'}"
    )


def parse(model: type[Model], content: Mapping[str, Any], source: Path | str) -> Model:
    """Validate ``content`` against ``model``.

    Raises:
        UserError: one line per mistake, each with file, key path, value found and what is valid.
    """
    try:
        return model.model_validate(dict(content))
    except ValidationError as error:
        lines = [_describe(model, problem) for problem in error.errors()]
        raise UserError("\n".join(f"{source}: {line}" for line in lines)) from None


def load(model: type[Model], path: Path) -> Model:
    """Read and validate one YAML file."""
    return parse(model, read_yaml(path), path)


def dump(config: BaseModel) -> str:
    """Canonical YAML of a config: every key, in the order of the schema."""
    return to_yaml(config.model_dump(mode="json"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest of the known names; empty where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _describe(model: type[BaseModel], problem: Any) -> str:
    """One sentence for one pydantic error."""
    keys = [str(part) for part in problem["loc"]]
    key = ".".join(keys) or "(whole file)"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, keys[:-1])
        return f"unknown key {key}{did_you_mean(keys[-1], known)}; valid keys here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"missing key {key}"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem["input"]
    # A whole-model error speaks of several keys and quotes their values itself.
    shown = "" if isinstance(found, dict) else f" found {found!r}:"
    return f"key {key}:{shown} {message}"


def _fields_at(model: type[BaseModel], keys: list[str]) -> list[str]:
    """Names of the fields of the (possibly nested) model that ``keys`` lead to."""
    current: Any = model
    for key in keys:
        fields = getattr(current, "model_fields", {})
        if key not in fields:
            continue
        current = _model_in(fields[key].annotation) or current
    return list(getattr(current, "model_fields", {}))


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model inside an annotation such as ``dict[str, RunSpec] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
