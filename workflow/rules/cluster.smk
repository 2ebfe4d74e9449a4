"""What happens when a run starts: what is left to train; jobs here end with Snakemake, jobs elsewhere are followed."""

import subprocess

from tst_titan.run import slurm, warm
from tst_titan.run.attempts import Attempts
from tst_titan.run.before import warn_of_little_space
from tst_titan.run.processes import stop_jobs_with_me
from tst_titan.tree.folder import StageFolder
from tst_titan.tree.plan import Cost


def check_cluster(jobs):
    """Refuse what a Slurm cluster cannot give or the executor does not know, before anything is submitted."""
    demands = []
    for job in jobs:
        name = f"{job.rule.name} {' '.join(job.wildcards)}"
        demands.append(slurm.Demand.of(name, job.threads, job.resources))
        # Evaluated on the job's own node; a folder that is written down is looked at here.
        slurm.check_scratch(str(job.rule.resources["tmpdir"].raw))
    slurm.check(demands, slurm.cluster_nodes())


onstart:
    to_do = list(workflow.dag.needrun_jobs())
    trained = [job.wildcards for job in to_do if job.rule.name == "train"]
    paths = [f"{stage.recipe}/{stage.lineage}" for stage in trained]
    for path in paths:
        Attempts(StageFolder.at(Path(RESULTS) / "train" / path)).ask()
    costs = {
        path: Cost.of(PROJECT.stages[path])
        for path in paths
        if path in PROJECT.stages
    }
    warn_of_little_space(
        Path(RESULTS), sum(cost.checkpoint_bytes for cost in costs.values())
    )
    if TERMINAL is not None:
        TERMINAL.flops = {path: cost.flops for path, cost in costs.items()}
    if workflow.executor_plugin.name == "slurm":
        try:
            check_cluster(job for job in to_do if not job.is_local)
        except UserError as error:
            raise WorkflowError(str(error)) from None
    if not workflow.non_local_exec:
        stop_jobs_with_me()
        warm.offer()
    else:
        # A job elsewhere prints into its own log; the stages' files tell how far they are.
        subprocess.Popen(
            [sys.executable, "-m", "tst_titan.cli", "status", "--follow", RESULTS]
        )
