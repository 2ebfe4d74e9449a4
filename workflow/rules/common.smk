"""What every rule file uses: the checked config, the stage tree, and where things are."""

import re
import sys
from pathlib import Path

from tst_titan.config.project import Project
from tst_titan.errors import UserError
from tst_titan.prune import Pruning, check_parents

ROOT = Path(workflow.basedir)
# `snakemake plan figure_4` is about figure_4 and makes nothing of it.
ONLY_ASKED = bool({"plan", "prune"} & set(sys.argv))
# A stage or experiment that nobody asked for must not be parsed out of a path by accident.
SEGMENT = r"[a-z0-9]+-\d+(?:-[A-Za-z0-9_.+]+)*"
LINEAGE = rf"{SEGMENT}(?:/{SEGMENT})*"


wildcard_constraints:
    recipe=r"[A-Za-z0-9_.+-]+",
    lineage=LINEAGE,
    corpus=r"[A-Za-z0-9_.-]+",
    scale=r"[A-Za-z0-9_.-]+",
    experiment=r"[A-Za-z0-9_.-]+",


try:
    PROJECT = Project.open(ROOT, config, targets=sys.argv)
    # Jobs that Snakemake starts read the files that the main process wrote: a config edited in the middle of a
    # run must not reach a job that was planned before.
    if workflow.is_main_process and "plan" not in sys.argv:
        PROJECT.render()
        if not ONLY_ASKED:
            check_parents(PROJECT.stages, Path(PROJECT.results))
except UserError as error:
    raise WorkflowError(str(error)) from None

RESULTS = PROJECT.results
SCALE = PROJECT.scale_name


def experiments_wanted():
    """Experiments that the default target and the report show."""
    return PROJECT.experiment_names


def corpus_of(recipe):
    """Corpus that a recipe reads."""
    return PROJECT.corpus_of(recipe)


def evaluation_config(recipe):
    """Rendered evaluation settings of a recipe."""
    return f"{RESULTS}/evaluate/{recipe}/evaluation.yaml"
