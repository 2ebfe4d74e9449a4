"""Set keys of torchtitan's config by dotted path, checked against its own dataclasses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tst_titan.config.load import did_you_mean
from tst_titan.config.titan_keys import OWNED
from tst_titan.errors import UserError

Config = TypeVar("Config")


def with_keys(config: Config, keys: Mapping[str, Any], where: str) -> Config:
    """The config with other values; all of one mapping are set at once, so that torchtitan sees them together.

    Args:
        config: a torchtitan config.
        keys: values by dotted path.
        where: names the file in errors.

    Raises:
        UserError: an unknown key, with the nearest, a value of another type, or one that torchtitan refuses.
    """
    known = list(_known(config))
    for key in keys:
        if key in known:
            continue
        within = [each for each in known if each.startswith(f"{key}.")]
        if within:
            raise UserError(
                f"{where}: key titan.{key}: found {keys[key]!r}; it holds keys: {', '.join(within)}"
            )
        above = key.rpartition(".")[0]
        beside = [each for each in known if each.rpartition(".")[0] == above] or sorted(
            {each.partition(".")[0] for each in known}
        )
        hint = (
            " (it is off: runtime.activation_checkpoint)" if key.startswith("activation_checkpoint.") else ""
        )
        raise UserError(
            f"{where}: unknown key titan.{key}{did_you_mean(key, known)}{hint}; torchtitan's keys here: "
            f"{', '.join(beside)}"
        )
    return _changed(config, dict(keys), "", where)


def _own_fields(config: Any) -> dict[str, Any]:
    """Types of the fields that torchtitan's classes gave a config, by name; subclasses of this project add theirs."""
    of_torchtitan = [each for each in type(config).__mro__ if each.__module__.startswith("torchtitan.")]
    names = {entry.name for each in of_torchtitan if is_dataclass(each) for entry in fields(each)}
    hints = get_type_hints(of_torchtitan[0]) if of_torchtitan else {}
    return {name: hints[name] for name in sorted(names)}


def _known(config: Any, above: str = "") -> Iterator[str]:
    for name in _own_fields(config):
        value = getattr(config, name)
        if above + name in OWNED:
            continue
        if is_dataclass(value):
            yield from _known(value, f"{above}{name}.")
        elif above or name != "activation_checkpoint":  # None where it is off
            yield above + name


def _changed(config: Any, keys: dict[str, Any], above: str, where: str) -> Any:
    hints = _own_fields(config)
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for key, value in keys.items():
        name, _, rest = key.partition(".")
        if rest:
            inner.setdefault(name, {})[rest] = value
            continue
        try:
            changes[name] = TypeAdapter(hints[name]).validate_python(value, strict=True)
        except ValidationError as error:
            valid = "; or ".join(dict.fromkeys(problem["msg"] for problem in error.errors()))
            raise UserError(f"{where}: key titan.{above}{name}: found {value!r}: {valid}") from None
    for name, values in inner.items():
        changes[name] = _changed(getattr(config, name), values, f"{above}{name}.", where)
    try:
        return replace(config, **changes)
    except ValueError as error:
        given = ", ".join(f"titan.{above}{key}: {value!r}" for key, value in keys.items())
        raise UserError(f"{where}: torchtitan refuses {given}: {error}") from None
