"""What every rule file uses: the checked config, the stage tree, and where things are."""

import logging
import signal
import sys
from functools import cache
from pathlib import Path

from snakemake.cli import get_argument_parser
from snakemake.logging import logger

from tst_titan.compare.render import EVALUATIONS, write_specs
from tst_titan.config.load import did_you_mean
from tst_titan.tree.project import Project
from tst_titan.errors import UserError
from tst_titan.evaluate.harness import refuse_unknown
from tst_titan.run.lock import release_snakemake
from tst_titan.run.progress import Terminal
from tst_titan.run.prune import Pruning, check_parents
from tst_titan.run.recipes import refuse_wrong_recipes
from tst_titan.run.upgrade import recognise_format_1

ROOT = Path(workflow.basedir)
# lm-eval definitions of the project's own.
TASKS = ROOT / "configs" / "tasks"
# The command line as Snakemake's own parser reads it: `workflow` does not know its targets yet. Jobs have none.
ASKED = get_argument_parser().parse_known_args(
    sys.argv[1:] if workflow.is_main_process else []
)[0]
ASKED.targets = ASKED.targets or []
# `snakemake plan figure_4` is about figure_4 and makes nothing of it.
ONLY_ASKED = not {"plan", "prune"}.isdisjoint(ASKED.targets)
# A stage or experiment that nobody asked for must not be parsed out of a path by accident.
SEGMENT = r"[a-z0-9]+-\d+(?:-[A-Za-z0-9_.+]+)*"
LINEAGE = rf"{SEGMENT}(?:/{SEGMENT})*"


wildcard_constraints:
    recipe=r"[A-Za-z0-9_.+-]+",
    lineage=LINEAGE,
    corpus=r"[A-Za-z0-9_.-]+",
    scale=r"[A-Za-z0-9_.-]+",
    experiment=r"[A-Za-z0-9_.-]+",
    table=r"[A-Za-z0-9_.-]+",


def terminal():
    """Print what a person wants to follow, in place of what Snakemake prints; its log file keeps that.

    A dry run, a call that runs nothing and one that is asked to say more or less print what they always did, mistakes
    apart.
    """
    default = next(
        (h for h in logger.handlers if isinstance(h, logging.StreamHandler)), None
    )
    if default is None or not workflow.is_main_process:
        return None
    usual = "dryrun quiet verbose printshellcmds debug_dag lint unlock report cleanup_metadata touch archive"
    usual += " delete_all_output delete_temp_output conda_create_envs_only container_cleanup_images"
    brief = not any(getattr(ASKED, name, None) for name in usual.split())
    found = Terminal(default, brief)
    logger.removeHandler(default)
    logger.addHandler(found)
    return found


TERMINAL = terminal()

if (ROOT / "configs/site.yaml").exists():
    raise WorkflowError(
        "configs/site.yaml is not read any more: what jobs ask of your cluster belongs into "
        "workflow/profiles/slurm/config.yaml, nodes and GPUs of stages into `runtime` of configs/scales/*.yaml; "
        "docs/slurm.md says which key goes where. Then remove the file"
    )

try:
    PROJECT = Project.open(ROOT, config, ASKED.targets)
    # Jobs that Snakemake starts read the files that the main process wrote: a config edited in the middle of a
    # run must not reach a job that was planned before.
    if workflow.is_main_process:
        recognise_format_1(PROJECT.stages, Path(PROJECT.results))
        for _name, _mistake in PROJECT.catalog.broken.items():
            print(f"{_name} cannot be asked for: {_mistake}", file=sys.stderr)
    if workflow.is_main_process and "plan" not in ASKED.targets:
        PROJECT.render()
        write_specs(PROJECT)
        if not ONLY_ASKED:
            refuse_unknown(PROJECT.tasks(), [TASKS])
            check_parents(PROJECT.stages, Path(PROJECT.results))
            refuse_wrong_recipes(PROJECT.wanted(), PROJECT.scale_name)
except UserError as error:
    raise WorkflowError(str(error)) from None

if workflow.is_main_process:
    release_snakemake(Path(".snakemake"), stay=not ASKED.dryrun)
else:
    # A cluster signals every process of a job before its time is up. Training turns that into a checkpoint; the
    # Snakemake around it must live until then. What is ignored here is ignored by the shell of the rule as well.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

RESULTS = PROJECT.results
SCALE = PROJECT.scale_name


def refuse_unknown_targets():
    """A mistyped experiment is told with the known ones; paths are Snakemake's own business."""
    known = sorted({rule.name for rule in workflow.rules} | set(TARGETS))
    for word in ASKED.targets:
        if word not in known and "/" not in word and not Path(word).exists():
            text = f"unknown target {word!r}{did_you_mean(word, known)}; experiments and tables: "
            raise WorkflowError(text + ", ".join(sorted(TARGETS)))


# Targets by name, with the experiments that each is about.
TARGETS = PROJECT.catalog.targets()


def experiments_wanted():
    """Experiments that the default target and the report show."""
    return PROJECT.experiment_names


def corpus_of(recipe):
    """Corpus that a recipe reads."""
    return PROJECT.corpus_of(recipe)


def evaluation_config(recipe):
    """Rendered evaluation settings of a recipe."""
    return f"{RESULTS}/evaluate/{recipe}/evaluation.yaml"
