"""What scoring and fetching share: finding lm-eval's tasks and loading their data."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tst_titan.errors import UserError

FETCH_HINT = (
    "Where there is a network, `tst-titan evaluate fetch --task NAME --out FILE` fetches a task's data into "
    "Hugging Face's cache (HF_HOME); carry that folder here if need be"
)


# A task's name, a group's or a tag's: behind such a key, or an entry of a list.
_NAMING = re.compile(rb"""^[ \t]*(?:-|["']?(?:task|group|tag)["']?[ \t]*:)(.*)$""", re.MULTILINE)
_WORD = re.compile(rb"""[^\s"',\[\]{}]+""")


def go_offline() -> None:
    """Let no library wait for a network; has no effect on those already imported."""
    os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}


def definition_of(task: str, folder: Path) -> list[str]:
    """The file that defines a task of one's own, as a rule's input; none for the harness's."""
    path = folder / f"{task}.yaml"
    return [str(path)] if path.is_file() else []


def task_manager(tasks: Sequence[str], folders: Sequence[Path]) -> Any:
    """lm-eval's index of tasks, over no more YAML than it takes to find ``tasks``.

    The harness ships some 14,000 definitions, and reading them all takes longer than scoring a small model: the
    given folders come first, then the harness's folders that are named like the tasks, then everything.

    Args:
        tasks: names of tasks, groups or tags.
        folders: folders with lm-eval YAML; a later one wins over an earlier one and over the harness's own.

    Raises:
        UserError: a task is in none of them.
    """
    from lm_eval import tasks as shipped
    from lm_eval.tasks import TaskManager

    own = [str(folder) for folder in folders]
    home = Path(shipped.__file__).parent
    named = {home / name for task in tasks for name in (task, task.split("_")[0]) if (home / name).is_dir()}
    manager: Any = None
    for paths, everything in ((own, False), ([*map(str, sorted(named)), *own], False), (own, True)):
        if not paths and not everything:
            continue
        manager = TaskManager(include_path=paths, include_defaults=everything)
        if all(task in manager.all_tasks for task in tasks):
            return manager
    raise _unknown(next(task for task in tasks if task not in manager.all_tasks), manager.all_tasks, own)


def refuse_unknown(tasks: Sequence[str], folders: Sequence[Path]) -> None:
    """Refuse a task that nobody knows, by the words of the definitions: importing the harness takes seconds.

    What is not in the given folders, or in one of the harness's that is named like the task, is looked for in all of
    its files, which takes a second. Without the harness installed nothing is refused.

    Args:
        tasks: names of tasks, groups or tags.
        folders: folders with lm-eval YAML.

    Raises:
        UserError: a name is in none of them.
    """
    harness = find_spec("lm_eval")
    known = _words(*folders)
    if harness is None or harness.origin is None or known.issuperset(tasks):
        return
    home = Path(harness.origin).parent / "tasks"
    known |= _words(*(home / name for task in tasks for name in (task, task.split("_")[0])))
    if not known.issuperset(tasks):
        known |= _words(home)
    for task in tasks:
        if task not in known:
            raise _unknown(task, known, list(map(str, folders)))


def _words(*folders: Path) -> set[str]:
    """All words that stand where definitions have names: more than there are tasks, and none too few."""
    files = (Path(place) / name for top in folders for place, _, names in os.walk(top) for name in names)
    # Definitions include files that have no ending.
    lines = (
        line for path in files if path.suffix in ("", ".yaml") for line in _NAMING.findall(path.read_bytes())
    )
    return {word.decode(errors="replace") for line in lines for word in _WORD.findall(line)}


def _unknown(task: str, known: Iterable[str], folders: Sequence[str]) -> UserError:
    near = difflib.get_close_matches(task, known, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    return UserError(
        f"evaluation.tasks: found {task!r}{guess}: neither the harness nor {', '.join(folders) or 'a folder'} has it; "
        "`lm-eval ls tasks` lists what the harness has"
    )


def load_tasks(manager: Any, tasks: Sequence[str]) -> list[Any]:
    """lm-eval's task objects with their data; a group stays one object, a tag becomes its tasks.

    Raises:
        UserError: a task's data is not at hand.
    """
    loaded: list[Any] = []
    for task in tasks:
        try:
            found = manager.load([task])
        # What datasets raises for data that is not in its cache depends on what it finds there instead.
        except (OSError, ValueError) as error:
            raise UserError(f"task {task}: its data is not at hand: {error}\n{FETCH_HINT}") from error
        loaded += [found["groups"][task]] if task in found["groups"] else list(found["tasks"].values())
    return loaded


def parts_of(task: str, folders: Sequence[Path]) -> list[Any]:
    """The task objects behind a name, with their data: of a group or tag those of all its tasks.

    Args:
        task: name of a task, group or tag.
        folders: folders with lm-eval YAML of one's own.

    Raises:
        UserError: the task is unknown or its data is not at hand.
    """
    parts: list[Any] = []
    for found in load_tasks(task_manager([task], folders), [task]):
        parts += found.get_all_tasks() if hasattr(found, "get_all_tasks") else [found]
    return parts


def add_arguments_of_a_task(parser: argparse.ArgumentParser, written: str) -> None:
    """The arguments of a command that reads one task and writes ``--out``."""
    parser.add_argument("--task", required=True, help="name of a task, group or tag")
    parser.add_argument(
        "--task-folder", type=Path, action="append", default=[], help="folder of lm-eval YAML"
    )
    parser.add_argument("--out", type=Path, required=True, help=written)
