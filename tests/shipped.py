"""Which files of configs/ are the project's: a user's own lie beside them, and are not the suite's to judge."""

from __future__ import annotations

import atexit
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]


@cache
def shipped() -> frozenset[Path]:
    """Files of configs/ that git tracks; all of them where git knows nothing, as in an unpacked archive."""
    command = ["git", "ls-files", "-z", "--", "configs"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        listed = ""
    tracked = frozenset(Path(name) for name in listed.split("\0") if name and (ROOT / name).exists())
    return tracked or frozenset(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))


def shipped_names(kind: str) -> list[str]:
    """Names of the shipped files of configs/<kind>, sorted."""
    return sorted(path.stem for path in shipped() if path.parent == Path("configs", kind))


def copy_configs(folder: Path) -> None:
    """Put the shipped files into ``folder/configs``."""
    for path in shipped():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, folder / path)


@cache
def shipped_root() -> Path:
    """A folder like the repository whose configs are the shipped ones; gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="shipped-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy_configs(folder)
    (folder / "envs").symlink_to(ROOT / "envs")
    return folder


def write_quickstart(folder: Path) -> None:
    """Put the files that docs/quickstart.md has its readers write into ``folder/configs``, and text beside them."""
    text = (ROOT / "docs/quickstart.md").read_text(encoding="utf8")
    blocks = re.findall(r"```yaml\n(.+?)```", text, re.DOTALL)
    for kind, block in zip(("corpora", "scales", "experiments"), blocks, strict=True):
        (folder / "configs" / kind / "mine.yaml").write_text(
            block.replace("/data/mine", str(folder / "mine"))
        )
    (folder / "mine").mkdir()
    (folder / "mine" / "part.jsonl").write_text('{"text": "One document."}\n')
