"""Numbers, counts, bytes, durations and tables as people read them; the one place that rounds for the eye.

A value goes with its unit through ``value_text``; the other functions are for what has no unit beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from tst_titan.errors import UserError

GAP = "—"
"""Stands where there is no number."""
WIDTH = 110
"""Characters of a line in a terminal."""

_LETTERS = ("", "k", "M", "B", "T", "P")
_BYTES = (" B", " kB", " MB", " GB", " TB", " PB")
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def value_text(value: float | None, unit: str) -> str:
    """A value with the digits that its unit deserves, short enough for a table's cell; ``GAP`` for None and NaN."""
    if value is None or math.isnan(value):
        return GAP
    form = _FORMS.get(unit)
    return form(value) if form is not None else f"{value:.4g} {unit}".rstrip()


def signed_text(value: float | None, unit: str) -> str:
    """A difference with its sign, "−0.0850"."""
    if value is None or math.isnan(value):
        return GAP
    return f"{'+' if value >= 0 else '−'}{value_text(abs(value), unit)}"


def interval_text(low: float | None, high: float | None, unit: str) -> str:
    """ "2.93 to 2.95", with ``GAP`` for an end that is open; empty without both ends."""
    if low is None and high is None:
        return ""
    return f"{value_text(low, unit)} to {value_text(high, unit)}"


def amount(count: float) -> str:
    """A count in three digits: 812, 7.5M, 42B, 1.05T."""
    return _scaled(count, _LETTERS)


def in_bytes(count: float) -> str:
    """Bytes in three digits and powers of 1000: 25.7 GB."""
    return _scaled(count, _BYTES)


def parse_amount(text: str) -> float:
    """A positive count as people write it: 42e9, 600M, 1.3B or 2T.

    Raises:
        UserError: it is none.
    """
    letter = text.strip()[-1:].upper()
    powers = {name.upper(): power for power, name in enumerate(_LETTERS) if name}
    body = text.strip()[:-1] if letter in powers else text
    try:
        value = float(body) * 1000.0 ** powers.get(letter, 0)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"'{text}' is not a positive count; write e.g. 42e9, 600M or 1.3B")
    return value


def power_of_ten(value: float, digits: int = 3) -> str:
    """1.23 × 10¹⁸ for large and very small numbers, plain text for the others."""
    if value == 0 or 1e-2 <= abs(value) < 1e4:
        return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if digits < 3:
        mantissa = mantissa.removesuffix(".0")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def hours_alone(hours: float) -> str:
    """Hours without their unit, for a column that names it: 0.144, 12.5, 1,234."""
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def duration(hours: float) -> str:
    """Hours as seconds, minutes or hours, whichever reads best: 50.0 s, 5.2 min, 3.25 h."""
    if hours < 1 / 60:
        return f"{hours * 3600:.1f} s"
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours_alone(hours)} h"


def clock(seconds: float) -> str:
    """Seconds on a clock that counts down: 4:05, 3:04:05 or 2 d 03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24} d {hours % 24:02d}:{minutes:02d}"
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def text_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1, width: int | None = None
) -> str:
    """A table for a terminal: the first ``words`` columns to the left, numbers to the right, a rule below the heads.

    Spaces at the start of a cell indent it. Columns beyond ``width`` characters go into a further table below, which
    begins with the same ``words`` columns and leaves out rows that say nothing in the others.
    """
    lines = [list(row) for row in rows]
    sizes = [max(map(len, column)) + 4 for column in zip(heads, *lines, strict=True)]
    first, blocks = sum(sizes[:words]), [list(range(words))]
    for column in range(words, len(heads)):
        used = first + sum(sizes[each] for each in blocks[-1][words:])
        if width is not None and len(blocks[-1]) > words and used + sizes[column] > width:
            blocks.append(list(range(words)))
        blocks[-1].append(column)
    tables = []
    for block in blocks:
        told = [line for line in lines if block is blocks[0] or any(line[i] for i in block[words:])]
        tables.append(
            _one_table([heads[i] for i in block], [[line[i] for i in block] for line in told], words)
        )
    return "\n\n".join(tables)


def _one_table(heads: Sequence[str], lines: Sequence[Sequence[str]], words: int) -> str:
    from tabulate import (
        tabulate,  # here: benchmarks of superposition import this module where there is only torch
    )

    aligned = ["left" if column < words else "right" for column in range(len(heads))]
    text = tabulate(
        lines, heads, "simple", disable_numparse=True, preserve_whitespace=True,
        colalign=aligned if lines else None,
    )  # fmt: skip
    return "\n".join(line.rstrip() for line in text.splitlines())


def _scaled(count: float, units: Sequence[str]) -> str:
    power = 0
    while abs(count) >= 999.5 and power < len(units) - 1:
        count, power = count / 1000, power + 1
    return f"{count:,.0f}{units[power]}" if abs(count) >= 999.5 else f"{count:.3g}{units[power]}"


_FORMS: dict[str, Callable[[float], str]] = {
    "nats/token": "{:.4f}".format,
    "bits/byte": "{:.4f}".format,
    "%": "{:.1f}".format,
    "steps": "{:,.0f}".format,
    "tokens": amount,
    "latents": amount,
    "FLOPs": power_of_ten,
    "hours": duration,
    "device-hours": duration,
    "B200-hours": "{:,.0f} B200-h".format,
    "times": "{:.2f}×".format,
    "epochs": "{:.2f}".format,
    "token steps per bag step": "{:.2f}".format,
    "": "{:.2f}".format,
}
