"""docs/config.md: every key that people may write, from the types that check them.

``python -m tst_titan.config.reference docs/config.md`` writes the file; a test fails where it differs from the types.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tst_titan.config.load import models_in
from tst_titan.files import write_if_changed

HEAD = """\
# All keys of all configs

Generated from the types that check them: do not edit. A key without a default must be given. A key that is not here is
refused, with the nearest that is.
"""


def reference(roots: dict[str, type[BaseModel]]) -> str:
    """Markdown: a section for each file that people write, and one for each mapping inside it.

    Args:
        roots: title of a section by what it documents, in order.
    """
    sections = [HEAD]
    described: set[type[BaseModel]] = set()
    for title, root in roots.items():
        sections.append(f"## {title}\n")
        todo = [root]
        while todo:
            model = todo.pop(0)
            if model in described:
                continue
            described.add(model)
            sections.append(_section(model))
            todo += [inner for field in model.model_fields.values() for inner in models_in(field.annotation)]
    return "\n".join(sections)


def _section(model: type[BaseModel]) -> str:
    text = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    rows = [_row(name, field) for name, field in model.model_fields.items()]
    return "\n".join(
        [
            f"### {model.__name__}\n",
            f"{text}\n",
            "| key | value | default | |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _row(name: str, field: FieldInfo) -> str:
    default = "" if field.is_required() else f"`{_shown(field.get_default(call_default_factory=True))}`"
    kind = _kind(field.annotation, [*field.metadata])
    description = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {kind} | {default} | {description} |"


def _shown(value: Any) -> str:
    """A default as YAML writes it."""
    if isinstance(value, BaseModel):
        return (
            "{"
            + ", ".join(f"{k}: {_shown(v)}" for k, v in value.model_dump(exclude_defaults=True).items())
            + "}"
        )
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_shown(v)}" for k, v in value.items()) + "}"
    return "null" if value is None else f"{value}"


def _kind(annotation: Any, constraints: list[Any]) -> str:
    """A type in words: what may be written."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0], [*constraints, *annotation.__metadata__])
    if origin in (Union, types.UnionType):
        return " or ".join(
            dict.fromkeys(_kind(each, constraints) for each in inner if each is not type(None))
        )
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in inner)
    if origin in (tuple, list):
        return f"list of {_kind(inner[0], [])}" if inner else "list"
    if origin is dict:
        return f"mapping of names to {_kind(inner[1], [])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    words = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
    name = words.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return " ".join([name, *_bounds(constraints)])


def _bounds(constraints: list[Any]) -> Iterator[str]:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    for constraint in constraints:
        found = list(constraint.metadata) if isinstance(constraint, FieldInfo) else [constraint]
        for each in found:
            for key, sign in signs.items():
                bound = getattr(each, key, None)
                # The upper bound of every count keeps typing mistakes out; nobody looks it up.
                if bound is not None and not (key == "le" and bound >= 10**9):
                    yield f"{sign} {bound:g}"


def everything() -> str:
    """The whole of docs/config.md."""
    from tst_titan.compare.elsewhere import Elsewhere
    from tst_titan.compare.spec import ComparisonSpec
    from tst_titan.compare.stages import Line
    from tst_titan.config.corpus import CorpusConfig
    from tst_titan.config.experiment import Collection, ExperimentConfig, ProjectConfig, ScaleConfig
    from tst_titan.models.family import ModelConfig, families
    from tst_titan.models.recipe import Recipe

    with_keys_of_their_own = {
        f"A model of family `{get_args(family.model_fields['family'].annotation)[0]}`": family
        for family in families()
        if family.model_fields.keys() != ModelConfig.model_fields.keys()
    }
    return reference(
        {
            "The project: `configs/demo.yaml` and `--config`": ProjectConfig,
            "A scale: `configs/scales/*.yaml`": ScaleConfig,
            "An experiment: `configs/experiments/*.yaml`": ExperimentConfig,
            "A collection of experiments: `configs/experiments/*.yaml`": Collection,
            "A model: `configs/models/*.yaml`": ModelConfig,
            **with_keys_of_their_own,
            "The model of a recipe of torchtitan's": Recipe,
            "A corpus: `configs/corpora/*.yaml`": CorpusConfig,
            "A run made elsewhere: `manifest.json`": Elsewhere,
            "A run made elsewhere: a line of `metrics.jsonl`": Line,
            "A comparison without the pipeline: `tst-titan compare spec.yaml --out FOLDER`": ComparisonSpec,
        }
    )


if __name__ == "__main__":
    write_if_changed(Path(sys.argv[1]), everything())
