"""What scoring and fetching share: finding lm-eval's tasks and loading their data."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tst_titan.errors import UserError

FETCH_HINT = (
    "Where there is a network, `tst-titan evaluate fetch --task NAME --out FILE` fetches a task's data into "
    "Hugging Face's cache (HF_HOME); carry that folder here if need be"
)


def go_offline() -> None:
    """Let no library wait for a network; has no effect on those already imported."""
    os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}


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
    unknown = next(task for task in tasks if task not in manager.all_tasks)
    near = difflib.get_close_matches(unknown, manager.all_tasks, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    raise UserError(
        f"evaluation.tasks: found {unknown!r}{guess}: neither the harness nor {', '.join(own) or 'a folder'} has it; "
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
