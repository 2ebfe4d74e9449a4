"""Read YAML into typed configs, with errors that name the file, the key, the value and what would be valid."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from tst_titan.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


# Planning thousands of stages spends most of its time in YAML; libyaml is faster and writes the same bytes.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _ConfigLoader(_Loader):
    """YAML as people mean it: ``2e-3`` is a number (YAML 1.1: a text), and no key of a mapping is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        given = set()
        for key, _ in node.value:
            if key.value in given and isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                raise yaml.YAMLError(
                    f"line {line}: key {key.value!r} is given twice in one mapping; keep one of them"
                )
            given.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return super().construct_mapping(node, deep)


_ConfigLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str) -> Any:
    """What a YAML text holds, ``2e-3`` being a number.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return yaml.load(text, Loader=_ConfigLoader)


def to_yaml(content: Mapping[str, Any]) -> str:
    """A mapping as YAML, keys in their order."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, width=100)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: the file is missing or cannot be read, is not YAML in UTF-8, or does not hold a mapping.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        found = error.object[error.start]
        raise UserError(
            f"{path}: not a UTF-8 text: byte {found:#04x} at position {error.start}; save the file as UTF-8"
        ) from None
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
    # Of a union, pydantic names the member that it tried, such as ``tuple[float, ...]``.
    location = tuple(part for part in problem["loc"] if "[" not in str(part))
    key = ".".join(map(str, location)) or "(whole file)"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        return (
            f"unknown key {key}{did_you_mean(str(location[-1]), known)}; valid keys here: {', '.join(known)}"
        )
    if problem["type"] == "missing":
        return f"missing key {key}"
    message = problem["msg"].removeprefix("Value error, ")
    found = problem["input"]
    # A whole-model error speaks of several keys and quotes their values itself.
    shown = "" if isinstance(found, dict) else f" found {_short(found)}:"
    return f"key {key}:{shown} {message}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Names of the fields that are valid at a place; ``location`` is pydantic's, with indices and tags of unions."""
    models = [model]
    for part in location:
        tagged = [each for each in models if part in _tags(each)]
        if tagged:
            models = tagged
            continue
        fields = [each.model_fields[part] for each in models if part in each.model_fields]
        if fields:  # else an index, or a name that is the user's own
            models = [inner for field in fields for inner in models_in(field.annotation)]
    return list(dict.fromkeys(name for each in models for name in each.model_fields))


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Values of ``kind`` that choose this model in a union."""
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation may hold, such as ``dict[str, RunSpec] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]
