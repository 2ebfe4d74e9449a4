"""Jobs that run elsewhere: refused before the first is submitted if the site cannot run them, followed from here."""

import subprocess
import sys

from tst_titan.run.cluster import slurm
from tst_titan.run.cluster.scratch import check_scratch


def check_site():
    """Refuse what the cluster cannot give, with the cluster's own values."""
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    source = PROJECT.site_path.relative_to(ROOT)
    for request in PROJECT.requests():
        check_scratch(request, str(source))
    if workflow.executor_plugin.name == "slurm":
        demands = [
            slurm.Demand.of(
                f"{job.rule.name} {' '.join(job.wildcards)}", job.threads, job.resources
            )
            for job in jobs
        ]
        slurm.check(demands, slurm.cluster_nodes(), str(source))


onstart:
    if TERMINAL is not None:
        to_train = [
            job for job in workflow.dag.needrun_jobs() if job.rule.name == "train"
        ]
        paths = [
            "{w.recipe}/{w.lineage}".format(w=job.wildcards) for job in to_train
        ]
        TERMINAL.flops = {
            path: Cost.of(PROJECT.stages[path]).flops
            for path in paths
            if path in PROJECT.stages
        }
    # A job elsewhere prints into its own log; the stages' files tell how far they are.
    if workflow.non_local_exec:
        try:
            check_site()
        except UserError as error:
            raise WorkflowError(str(error)) from None
        subprocess.Popen(
            [sys.executable, "-m", "tst_titan.cli", "status", "--follow", RESULTS]
        )
