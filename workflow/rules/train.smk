"""One rule trains every stage; the path is the lineage."""


def parent_manifest(wildcards):
    """The parent stage's manifest; a root has none."""
    head, _, _ = wildcards.lineage.rpartition("/")
    return [f"{RESULTS}/train/{wildcards.recipe}/{head}/manifest.json"] if head else []


@cache
def next_job(recipe, lineage, attempt):
    """What the stage's next job asks for: it depends on how the last one ended."""
    folder = Path(RESULTS) / "train" / recipe / lineage
    return Attempts(StageFolder.at(folder)).next_job(automatic=attempt > 1)


def of_job(value):
    """Resource function: a value of what the stage's runtime.yaml asks for; None leaves the resource out."""
    return lambda wildcards, attempt: value(
        next_job(wildcards.recipe, wildcards.lineage, attempt)
    )


def stage_cores(wildcards, attempt):
    """Cores of a stage's job on each node.

    On one machine nobody hands out GPUs: a stage that wants some takes all cores, so that it has them to itself. So does
    one whose processes use all cores.
    """
    job = next_job(wildcards.recipe, wildcards.lineage, attempt)
    local = workflow.is_main_process and not workflow.non_local_exec
    if local and (job.gpus_per_node or job.wants_the_machine):
        return workflow.cores
    return job.cores_per_node


rule train:
    input:
        stage=RESULTS + "/train/{recipe}/{lineage}/stage.yaml",
        parent=parent_manifest,
        data=lambda w: f"{RESULTS}/data/{corpus_of(w.recipe)}/manifest.json",
    output:
        # Checkpoints lie beside it, undeclared: Snakemake deletes the declared outputs of a failed job.
        RESULTS + "/train/{recipe}/{lineage}/manifest.json",
    log:
        # Of the last attempt; train.log beside it has all.
        RESULTS + "/train/{recipe}/{lineage}/logs/attempt.log",
    benchmark:
        RESULTS + "/train/{recipe}/{lineage}/logs/benchmark.tsv"
    conda:
        "../../envs/train.yaml"
    threads: stage_cores
    resources:
        mem_mb=of_job(lambda job: job.memory_mb),
        runtime=of_job(lambda job: job.wall_minutes),
        # Whether a person or Snakemake itself starts the job: no executor knows this one.
        attempt=lambda wildcards, attempt: attempt,
        nodes=of_job(lambda job: job.nodes),
        # Several nodes are an "MPI" job of one task a node: the command then runs once, on the first node, and the
        # launcher starts the others.
        tasks=of_job(lambda job: job.nodes if job.nodes > 1 else None),
        mpi=of_job(lambda job: "srun" if job.nodes > 1 else None),
        gres=of_job(lambda job: job.gres),
        # One task that sees all GPUs of the node, not one for each.
        tasks_per_gpu=of_job(lambda job: 0 if job.gpus_per_node else None),
        # To the job's steps: the batch shell would die of it.
        slurm_extra=of_job(
            lambda job: (
                f"--signal=USR1@{job.stop_seconds}" if job.stop_seconds else None
            )
        ),
    shell:
        "exec python -m tst_titan.cli train $(dirname {output}) --log {log}"
        " --attempt {resources.attempt}"
