"""What a person who runs the workflow wants to follow: steps in words, how many are done, time left, and mistakes.

Stands in for the handler with which Snakemake writes to the terminal. Snakemake's own log file keeps everything.
"""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

from tst_titan.text import clock

# Rules whose name does not say what happens.
WORDS = {
    "data_part": "prepare a part of the data",
    "tokenize": "write the tokens",
    "data_manifest": "check the shards",
    "start": "check the weights to start from,",
    "heldout": "measure the held-out loss",
    "evaluate_tasks": "score the tasks",
    "local_task": "make a task from held-out documents",
    "fetch_tasks": "fetch a task",
    "task_items": "fetch a task's items",
    "mutual_information": "count the mutual information",
    "figures": "draw figures",
    "page": "write a page",
    "tables": "write a table",
    "report": "write the report",
}
# Further lines of Snakemake's that a person needs.
KEPT = re.compile(r"submitted with|external jobid|Trying to restart|Nothing to be done")
LOG = "Complete log(s): "
LINES_OF_A_LOG = 6


class Terminal(logging.Handler):
    """A handler for Snakemake's logger.

    Args:
        default: Snakemake's handler; all that it writes stays, mistakes apart, unless ``brief``.
        brief: print one line a step.

    Attributes:
        flops: of the stages to be trained, by ``<recipe>/<lineage>``; the training time left follows from them.
    """

    def __init__(self, default: logging.StreamHandler, brief: bool):
        super().__init__()
        self.default, self.brief = default, brief
        self.flops: dict[str, float] = {}
        self._titles: dict[int, tuple[str, str]] = {}
        self._finished = ""
        self._began = time.monotonic()
        self._training_since: float | None = None
        self._trained: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Print what a person needs of a record; see ``logging.Handler``."""
        try:
            if getattr(record, "event", None) == "error":
                text = sentence(record)
            elif self.brief:
                text = self._line(record)
            else:
                self.default.handle(record)
                return
            if text:
                self.default.stream.write(f"{text}\n")
                self.default.flush()
        except Exception:
            self.handleError(record)

    def _line(self, record: Any) -> str | None:
        event, text = getattr(record, "event", None), record.getMessage()
        if event == "run_info":
            steps, stages = record.stats["total"], record.stats.get("train", 0)
            to_train = f", {stages} stage{'s' * (stages != 1)} to train" if stages else ""
            return f"{steps} step{'s' * (steps != 1)} to do{to_train}"
        if event == "job_info":
            return self._starts(record)
        if event == "job_finished":
            rule, self._finished = self._titles[record.job_id]
            if rule == "train":
                self._trained.add(self._finished.removeprefix("train ").replace(" ", "/"))
            return None
        if event == "progress":
            return f"[{self._clock()}] {record.done} of {record.total} done: {self._finished}{self._left()}"
        if event == "job_error":
            return self._fails(record)
        if text.startswith(LOG):
            return f"Snakemake's log of this run: {text.removeprefix(LOG)}"
        if KEPT.search(text) or (
            record.levelno >= logging.WARNING and not text.startswith("Exiting because")
        ):
            return text
        return None

    def _starts(self, record: Any) -> str:
        rule = record.rule_name
        # A target has its own name; a step has its rule's, in words.
        words = WORDS.get(rule, rule.replace("_", " ")) if record.output else rule
        known = [str(value) for value in record.wildcards.values() if str(value) not in words.split()]
        title = " ".join([words, *known])
        self._titles[record.jobid] = rule, title
        if rule == "train" and self._training_since is None:
            self._training_since = time.monotonic()
        return f"[{self._clock()}] {title}"

    def _fails(self, record: Any) -> str:
        _, title = self._titles.get(record.jobid, ("", record.rule_name))
        logs = [Path(path) for path in record.log]
        lines = [f"[{self._clock()}] failed: {title}" + (f"; see {logs[0]}" if logs else "")]
        # Some rules show the end of their log themselves, and where jobs run elsewhere none of them can.
        if record.aux or not re.search(r"tail -n|--log", record.shellcmd or ""):
            lines += [line for path in logs for line in _end_of(path)]
        return "\n".join(lines)

    def _clock(self) -> str:
        return clock(time.monotonic() - self._began)

    def _left(self) -> str:
        """Training time left, from the FLOPs and the speed so far; nothing before a stage is trained."""
        total, done = sum(self.flops.values()), sum(self.flops.get(path, 0.0) for path in self._trained)
        if self._training_since is None or not 0 < done < total:
            return ""
        spent = time.monotonic() - self._training_since
        return f"; about {clock(spent * (total - done) / done)} of training left"


def sentence(record: Any) -> str | None:
    """An error's own words: no file and line of the workflow, nothing where the failed job has said it all."""
    text = record.getMessage()
    if record.exception in ("RuleException", "CalledProcessError") or "At least one job did not" in text:
        return None
    if found := re.search(r"UserError: (.*?)\n(?:Wildcards:|Traceback:|  File )", text, re.DOTALL):
        return found.group(1)
    if record.exception != "WorkflowError":
        return text
    lines = [line for line in text.splitlines() if not line.startswith('  File "')]
    return "\n".join(lines[1:] if len(lines) > 1 and lines[0].startswith("WorkflowError") else lines)


def _end_of(path: Path) -> list[str]:
    try:
        return [f"    {line}" for line in path.read_text(errors="replace").splitlines()[-LINES_OF_A_LOG:]]
    except OSError:
        return []
