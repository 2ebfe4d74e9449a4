"""After training: export, held-out loss, tasks."""

STAGE = RESULTS + "/train/{recipe}/{lineage}"
EXPORT = RESULTS + "/export/{recipe}/{lineage}"
EVALUATE = RESULTS + "/evaluate/{recipe}/{lineage}"
LOCAL_TASK = "heldout_continuation"


def data_manifest_of(wildcards):
    """Manifest of the corpus that a recipe reads."""
    return f"{RESULTS}/data/{corpus_of(wildcards.recipe)}/manifest.json"


def local_task_of(wildcards):
    """Done-file of the task made from the recipe's held-out documents, where it is asked for."""
    if LOCAL_TASK not in PROJECT.evaluation_of(wildcards.recipe)["tasks"]:
        return []
    corpus = corpus_of(wildcards.recipe)
    return f"{RESULTS}/data/{corpus}/tasks/{LOCAL_TASK}/done.json"


rule export:
    input:
        stage=STAGE + "/manifest.json",
        data=data_manifest_of,
    output:
        EXPORT + "/export.json",
    log:
        EXPORT + "/export.log",
    threads: 1
    resources:
        mem_mb=16000,
        runtime=60,
    shell:
        "python -W ignore -m tst_titan.titan.export $(dirname {input.stage}) $(dirname {output}) > {log} 2>&1"


rule heldout:
    input:
        export=EXPORT + "/export.json",
        stage=STAGE + "/manifest.json",
        data=data_manifest_of,
    output:
        EVALUATE + "/heldout.json",
    log:
        EVALUATE + "/heldout.log",
    threads: 1
    resources:
        mem_mb=16000,
        runtime=120,
    params:
        length=lambda w: PROJECT.sequence_length_of(w.recipe),
        limit=lambda w: PROJECT.evaluation_of(w.recipe)["heldout_tokens"] or "",
    shell:
        "python -W ignore -m tst_titan.evaluate.heldout --model $(dirname {input.export})"
        " --data-manifest {input.data} --stage-manifest {input.stage} --sequence-length {params.length}"
        " $([ -z '{params.limit}' ] || echo --limit {params.limit}) --threads {threads} --out {output} > {log} 2>&1"


rule local_task:
    input:
        data=RESULTS + "/data/{corpus}/manifest.json",
    output:
        RESULTS + "/data/{corpus}/tasks/heldout_continuation/done.json",
    log:
        RESULTS + "/data/{corpus}/logs/heldout_continuation.log",
    threads: 1
    resources:
        mem_mb=8000,
        runtime=30,
    shell:
        "python -m tst_titan.evaluate.local_task --data-manifest {input.data} --out $(dirname {output}) > {log} 2>&1"


rule evaluate_tasks:
    input:
        config=RESULTS + "/evaluate/{recipe}/evaluation.yaml",
        export=EXPORT + "/export.json",
        local=local_task_of,
    output:
        EVALUATE + "/tasks.json",
    log:
        EVALUATE + "/tasks.log",
    threads: 1
    resources:
        mem_mb=16000,
        runtime=240,
    shell:
        "python -W ignore -m tst_titan.evaluate.tasks --model $(dirname {input.export}) --config {input.config}"
        " $([ -z '{input.local}' ] || echo --task-folder $(dirname {input.local})) --threads {threads}"
        " --out {output} > {log} 2>&1"
