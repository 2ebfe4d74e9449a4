"""Score an exported model with lm-eval: ``python -m tst_titan.evaluate.tasks``.

The model is loaded once for all tasks. Offline unless asked: without its data at hand the harness would wait for a
network that is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tst_titan.config.experiment import EvaluationConfig
from tst_titan.config.load import load
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed


def evaluate(
    model_folder: Path, tasks: list[str], task_folders: list[Path], batch_size: int, limit: int | None
) -> dict[str, Any]:
    """Content of tasks.json.

    Args:
        model_folder: exported Hugging Face folder.
        tasks: names that the harness or the folders know.
        task_folders: folders with lm-eval YAML of local tasks.
        batch_size: sequences per forward pass.
        limit: items per task, None for all.

    Raises:
        UserError: a task is unknown, its data is not at hand, or there is no exported model.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from tst_titan.evaluate.heldout import device

    if not (model_folder / "export.json").is_file():
        raise UserError(
            f"{model_folder}: no finished export (export.json is missing); export the stage first"
        )
    manager = TaskManager(include_path=[str(folder) for folder in task_folders])
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        local = [path.stem for folder in task_folders for path in folder.glob("*.yaml")]
        raise UserError(
            f"evaluation.tasks: found {', '.join(unknown)}; neither the harness nor the local tasks "
            f"({', '.join(local) or 'none'}) know it"
        )
    model = HFLM(pretrained=str(model_folder), batch_size=batch_size, device=device(), dtype="float32")
    try:
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=list(tasks),
            num_fewshot=0,
            limit=limit,
            bootstrap_iters=1000,
            task_manager=manager,
        )
    except (ConnectionError, OSError) as error:
        raise UserError(
            f"the data of a task among {', '.join(tasks)} is not at hand and evaluation is offline: {error}. "
            "Where there is a network, run the same command once with --online; it fetches what is missing"
        ) from error
    assert found is not None
    return {
        "tasks": {task: _scores(found, task) for task in tasks},
        "lm_eval_version": lm_eval.__version__,
        "batch_size": batch_size,
        "add_bos": bool(model.add_bos_token),
        "num_fewshot": 0,
        "model": str(model_folder),
    }


def _scores(found: dict[str, Any], task: str) -> dict[str, Any]:
    result = found["results"][task]
    counts = found.get("n-samples", {}).get(task)
    return {
        "acc": result.get("acc,none"),
        "acc_stderr": _number(result.get("acc_stderr,none")),
        "acc_norm": result.get("acc_norm,none"),
        "acc_norm_stderr": _number(result.get("acc_norm_stderr,none")),
        "version": found["versions"].get(task),
        "n": counts["effective"] if counts else None,
        "samples_limit": found["config"].get("limit"),
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Score an exported model on lm-eval tasks, 0-shot.")
    parser.add_argument("--model", type=Path, required=True, help="exported Hugging Face folder")
    parser.add_argument(
        "--config", type=Path, required=True, help="evaluation.yaml: tasks, limit, batch_size"
    )
    parser.add_argument(
        "--task-folder", type=Path, action="append", default=[], help="lm-eval YAML of local tasks"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--online", action="store_true", help="let the harness fetch data")
    parser.add_argument("--out", type=Path, required=True)
    parsed = parser.parse_args(arguments)
    settings = load(EvaluationConfig, parsed.config)
    with tempfile.TemporaryDirectory() as cache:
        if not parsed.online:
            os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
        if all(
            any((folder / f"{task}.yaml").exists() for folder in parsed.task_folder)
            for task in settings.tasks
        ):
            # Local items only: nothing worth keeping in the user's cache.
            os.environ["HF_DATASETS_CACHE"] = cache
        import torch

        torch.set_num_threads(parsed.threads)
        try:
            found = evaluate(
                parsed.model, list(settings.tasks), parsed.task_folder, settings.batch_size, settings.limit
            )
        except UserError as error:
            print(error, file=sys.stderr)
            return 2
    write_if_changed(parsed.out, json.dumps(found, indent=2) + "\n")
    for task, scores in found["tasks"].items():
        print(f"{parsed.model}  {task}  acc {scores['acc']:.3f}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
