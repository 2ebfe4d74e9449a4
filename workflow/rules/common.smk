"""What every rule file uses: the checked config, the stage tree, and where things are."""

import re
import signal
import sys
from functools import cache
from pathlib import Path

from tst_titan.compare.render import EVALUATIONS, write_specs
from tst_titan.run.cluster.resources import NAMES, resources, scratch_folder
from tst_titan.config.load import did_you_mean
from tst_titan.tree.project import Project
from tst_titan.errors import UserError
from tst_titan.run.upgrade import recognise_format_1
from tst_titan.run.prune import Pruning, check_parents

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
    table=r"[A-Za-z0-9_.-]+",


try:
    PROJECT = Project.open(ROOT, config, targets=sys.argv)
    # Jobs that Snakemake starts read the files that the main process wrote: a config edited in the middle of a
    # run must not reach a job that was planned before.
    if workflow.is_main_process:
        recognise_format_1(PROJECT.stages, Path(PROJECT.results))
    if workflow.is_main_process and "plan" not in sys.argv:
        PROJECT.render()
        write_specs(PROJECT)
        if not ONLY_ASKED:
            check_parents(PROJECT.stages, Path(PROJECT.results))
except UserError as error:
    raise WorkflowError(str(error)) from None

if not workflow.is_main_process:
    # A cluster signals every process of a job before its time is up. Training turns that into a checkpoint; the
    # Snakemake around it must live until then. What is ignored here is ignored by the shell of the rule as well.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)

RESULTS = PROJECT.results
SCALE = PROJECT.scale_name


def refuse_unknown_targets():
    """A mistyped experiment is told with the known ones; paths are Snakemake's own business.

    The command line is read by Snakemake's own parser: it has no targets to show while the rules are read.
    """
    from snakemake.cli import get_argument_parser

    if not workflow.is_main_process:
        return
    asked, _ = get_argument_parser().parse_known_args(sys.argv[1:])
    known = sorted({rule.name for rule in workflow.rules} | set(TARGETS))
    for word in asked.targets or []:
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


def cores(kind):
    """Cores of a kind of rule (configs/site.yaml)."""
    return PROJECT.request(kind).cpus


def asks(kind, **computed):
    """Resources of a kind of rule: what its jobs ask a cluster for.

    Args:
        kind: of configs/site.yaml, whose values win.
        computed: resources from the job's own size, for what the site leaves out.
    """
    request = PROJECT.request(kind)
    wanted = {k: v for k, v in resources(request).items() if v is not None}
    return computed | wanted | {"tmpdir": lambda wildcards: scratch_folder(request)}


@cache
def stage_request(recipe, lineage, attempt):
    """What a stage's job asks for at one attempt: it depends on how the last one ended."""
    return PROJECT.stage_request(recipe, lineage)


def stage_cores(wildcards, attempt):
    """Cores of a stage's job on each node.

    On one machine nobody hands out GPUs: a stage that wants some takes all cores, so that it has them to itself.
    """
    request = stage_request(wildcards.recipe, wildcards.lineage, attempt)
    if request.gpus and workflow.is_main_process and not workflow.non_local_exec:
        return workflow.cores
    return request.cpus


def stage_asks():
    """Resources of a stage, each a function of its wildcards."""

    def resource(name):
        def of(wildcards, attempt):
            request = stage_request(wildcards.recipe, wildcards.lineage, attempt)
            return resources(request, stops_on_signal=True)[name]

        return of

    def scratch(wildcards, attempt):
        return scratch_folder(
            stage_request(wildcards.recipe, wildcards.lineage, attempt)
        )

    return {name: resource(name) for name in NAMES} | {"tmpdir": scratch}
