"""After training: export, held-out loss, tasks."""

from tst_titan.evaluate.harness import definition_of

STAGE = RESULTS + "/train/{recipe}/{lineage}"
EXPORT = RESULTS + "/export/{recipe}/{lineage}"
EVALUATE = RESULTS + "/evaluate/{recipe}/{lineage}"
# The task of the project's own that gets its items from the corpus; the others get them from where they say.
LOCAL_TASK = "heldout_continuation"
# No parameter by default: what is exported already is not exported again.
DTYPE = PROJECT.config.export_dtype
EXPORTED_AS = [] if DTYPE == "float32" else [f"--dtype {DTYPE}"]


wildcard_constraints:
    task=r"[A-Za-z0-9_.-]+",


localrules:
    # The one rule that wants a network: compute nodes often have none.
    fetch_tasks,


def data_manifest_of(wildcards):
    """Manifest of the corpus that a recipe reads."""
    return f"{RESULTS}/data/{corpus_of(wildcards.recipe)}/manifest.json"


def tasks_of(wildcards):
    """Tasks that a recipe's models are scored on, as rendered."""
    return PROJECT.evaluation_of(wildcards.recipe)["tasks"]


def local_task_of(wildcards):
    """Done-file of the task made from the recipe's held-out documents, where it is asked for."""
    folder = f"{RESULTS}/data/{corpus_of(wildcards.recipe)}/tasks/{LOCAL_TASK}"
    return [f"{folder}/done.json"] if LOCAL_TASK in tasks_of(wildcards) else []


def fetched_of(wildcards):
    """Done-files of the other tasks' data."""
    return [f"{RESULTS}/tasks/{t}.json" for t in tasks_of(wildcards) if t != LOCAL_TASK]


def export_memory(wildcards):
    """MB for one float32 copy of the model, a quarter more for the shard that is written, and Python."""
    return 4000 + int(5e-6 * PROJECT.parameters_of(wildcards.recipe))


def evaluation_memory(wildcards):
    """MB for the model in float32 and a batch of logits."""
    return 12000 + export_memory(wildcards)


rule export:
    input:
        stage=STAGE + "/manifest.json",
        data=data_manifest_of,
    output:
        # Weights, config and tokenizer lie beside it; its presence means that they are whole.
        EXPORT + "/export.json",
    log:
        EXPORT + "/export.log",
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=export_memory,
        runtime=240,
    params:
        *EXPORTED_AS,
    shell:
        "PYTHONWARNINGS=ignore tst-titan export $(dirname {input.stage}) $(dirname {output}) {params}"
        " > {log} 2>&1"
        " || {{ tail -n 4 {log} >&2; exit 1; }}"


rule heldout:
    input:
        export=EXPORT + "/export.json",
        stage=STAGE + "/manifest.json",
        data=data_manifest_of,
    output:
        loss=EVALUATE + "/heldout.json",
        documents=EVALUATE + "/heldout_documents.csv",
    log:
        EVALUATE + "/heldout.log",
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=evaluation_memory,
        runtime=240,
    params:
        # Not evaluation.yaml: an edit of the tasks must not score the held-out documents again.
        length=lambda w: PROJECT.sequence_length_of(w.recipe),
        limit=lambda w: [
            f"--limit={tokens}"
            for tokens in [PROJECT.evaluation_of(w.recipe)["heldout_tokens"]]
            if tokens is not None
        ],
    shell:
        "PYTHONWARNINGS=ignore tst-titan evaluate heldout --model $(dirname {input.export})"
        " --data-manifest {input.data} --stage-manifest {input.stage} --sequence-length {params.length}"
        " {params.limit} --threads {threads} --documents {output.documents} --out {output.loss} > {log} 2>&1"
        " || {{ tail -n 4 {log} >&2; exit 1; }}"


rule local_task:
    input:
        data=RESULTS + "/data/{corpus}/manifest.json",
        definition=str(TASKS / f"{LOCAL_TASK}.yaml"),
    output:
        RESULTS + f"/data/{{corpus}}/tasks/{LOCAL_TASK}/done.json",
    log:
        RESULTS + f"/data/{{corpus}}/logs/{LOCAL_TASK}.log",
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    shell:
        "tst-titan evaluate local-task --data-manifest {input.data} --definition {input.definition:q}"
        " --out $(dirname {output}) > {log} 2>&1 || {{ tail -n 4 {log} >&2; exit 1; }}"


rule fetch_tasks:
    input:
        own=lambda w: definition_of(w.task, TASKS),
    output:
        RESULTS + "/tasks/{task}.json",
    log:
        RESULTS + "/tasks/{task}.log",
    # A name that nobody knows, or a missing network, is told before anything is trained.
    priority: 10
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
    shell:
        "PYTHONWARNINGS=ignore tst-titan evaluate fetch --task {wildcards.task} --task-folder {TASKS:q}"
        " --out {output} > {log} 2>&1 || {{ tail -n 4 {log} >&2; exit 1; }}"


rule evaluate_tasks:
    input:
        config=RESULTS + "/evaluate/{recipe}/evaluation.yaml",
        export=EXPORT + "/export.json",
        local=local_task_of,
        fetched=fetched_of,
    output:
        EVALUATE + "/tasks.json",
    log:
        EVALUATE + "/tasks.log",
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=evaluation_memory,
        runtime=240,
    params:
        length=lambda w: PROJECT.sequence_length_of(w.recipe),
    shell:
        # Of two definitions of one name the later counts: the local task's with its items.
        "PYTHONWARNINGS=ignore tst-titan evaluate tasks --model $(dirname {input.export}) --config {input.config}"
        " --task-folder {TASKS:q} $([ -z '{input.local}' ] || echo --task-folder $(dirname {input.local}))"
        " --sequence-length {params.length} --threads {threads} --out {output} > {log} 2>&1"
        " || {{ tail -n 4 {log} >&2; exit 1; }}"
