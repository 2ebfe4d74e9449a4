"""A panel: one figure with its title, caption and files. figures.json lists them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from tst_titan.compare.numbers import Number, to_csv
from tst_titan.files import write_atomically
from tst_titan.report.style import save

Role = Literal["curves", "result"]


@dataclass(frozen=True)
class Panel:
    """One entry of figures.json.

    Attributes:
        name: file name without suffix.
        role: "curves" are loss curves (the page shows them interactively); "result" is anything else.
        alt: what the figure shows, for those who cannot see it.
        csv: file with exactly the numbers drawn; None where they are compare's curves.csv.
    """

    name: str
    role: Role
    title: str
    caption: str
    alt: str
    svg: str
    pdf: str
    csv: str | None

    def to_mapping(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)


def save_panel(
    figure: Figure,
    folder: Path,
    name: str,
    title: str,
    caption: str,
    alt: str,
    role: Role = "result",
    data: pd.DataFrame | Sequence[Number] | None = None,
) -> Panel:
    """Write the figure's files and describe them; ``data`` is what it draws, rows of the table of results or others."""
    save(figure, folder, name)
    csv = None
    if data is not None:
        csv = f"{name}.csv"
        write_atomically(
            folder / csv, data.to_csv(index=False) if isinstance(data, pd.DataFrame) else to_csv(data)
        )
    return Panel(name, role, title, caption, alt, f"{name}.svg", f"{name}.pdf", csv)
