"""One rule trains every stage; the path is the lineage."""

from tst_titan.config.load import read_yaml
from tst_titan.tree.start import EXPORTS, name_in

START = RESULTS + "/start/{source}"


wildcard_constraints:
    source=r"[A-Za-z0-9_.+-]+",


localrules:
    # It may want a network, as fetch_tasks does.
    start,


def export_to_start_from(wildcards):
    """The export that is a source, where it is one of these results' own."""
    path = read_yaml(Path(START.format(source=wildcards.source), "config.yaml"))["path"]
    return [f"{RESULTS}/{path}/export.json"] if path.startswith(EXPORTS) else []


rule start:
    input:
        config=START + "/config.yaml",
        export=export_to_start_from,
    output:
        START + "/manifest.json",
    log:
        START + "/start.log",
    # Weights of another model, or none, are told before a corpus is made.
    priority: 10
    conda:
        "../../envs/train.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
    shell:
        "PYTHONWARNINGS=ignore tst-titan start {input.config} > {log} 2>&1"
        " || {{ tail -n 4 {log} >&2; exit 1; }}"


def start_of(wildcards):
    """What a root begins with, where that is not new weights."""
    name = None if "/" in wildcards.lineage else name_in(wildcards.lineage)
    return [START.format(source=name) + "/manifest.json"] if name else []


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
        start=start_of,
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
