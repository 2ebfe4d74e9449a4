"""metrics.jsonl and heldout.jsonl of a stage: written by training, read by everything that follows it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class MetricsFile:
    """A line a step, cut back when the stage resumes, so that no step is there twice."""

    def __init__(self, path: Path):
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """All whole lines; a line that a crash cut short is left out."""
        if not self.path.is_file():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                break
        return lines

    def last(self) -> dict[str, Any] | None:
        """The last whole line, without reading what comes before."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                block = 1 << 14
                while True:
                    file.seek(max(size - block, 0))
                    whole = file.read().split(b"\n")[:-1]
                    if len(whole) > 1 or (whole and block >= size):
                        return json.loads(whole[-1])
                    if block >= size:
                        return None
                    block *= 4
        except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
            return None

    def truncate_after(self, step: int) -> dict[str, Any] | None:
        """Keep the lines up to ``step`` and return the last of them."""
        kept = [line for line in self.read() if line["step"] <= step]
        if self.path.exists():
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf8")
            temporary.replace(self.path)
        return kept[-1] if kept else None

    def append(self, line: dict[str, Any]) -> None:
        """Add one line."""
        with self.path.open("a", encoding="utf8") as out:
            out.write(json.dumps(line) + "\n")
