"""From sources to checked token shards: five steps and the manifest.

Each step declares a small done-file, written last, as its only output. What it works on lies beside it in folders
named by a hash of the settings: Snakemake deletes the declared outputs of a failed job, and finished tasks must
survive. The inputs config/<step>.yaml are rendered when the workflow is read, and written only if they change.
"""

from tst_titan.config.corpus import load_corpus
from tst_titan.data.settings import SETTINGS
from tst_titan.evaluate.harness import definition_of

DATA = RESULTS + "/data/{corpus}"
DATA_DONE = {
    step: f"{DATA}/{settings.place}/{step}.done.json"
    for step, settings in SETTINGS.items()
}


def data_before(wildcards):
    """Done-file of the step before a step; its own settings are in config/<step>.yaml."""
    after = SETTINGS[wildcards.step].after
    return [DATA_DONE[after]] if after else []


@cache
def corpus_config(corpus):
    return load_corpus(ROOT / "configs" / "corpora" / f"{corpus}.yaml")


def data_jobs(corpus):
    """Number of jobs over which the steps of a corpus are spread."""
    return corpus_config(corpus).jobs


def items_of_tasks(wildcards):
    """Items of the tasks that the filter compares documents with; none unless the corpus asks for it."""
    asked = corpus_config(wildcards.corpus).decontamination
    if wildcards.step != "filter" or not asked:
        return []
    return [f"{RESULTS}/tasks/{task}.items.jsonl" for task in asked.tasks]


def data_parts(wildcards):
    """The parts of a step that other jobs do; none unless the corpus asks for several jobs."""
    jobs = data_jobs(wildcards.corpus)
    if jobs == 1 or wildcards.step == "tokenizer":
        return []
    folder = f"{RESULTS}/data/{wildcards.corpus}/parts"
    return [f"{folder}/{wildcards.step}-{part}-of-{jobs}.json" for part in range(jobs)]


localrules:
    # Wants a network, as fetch_tasks does.
    task_items,


rule task_items:
    input:
        own=lambda w: definition_of(w.task, ROOT / "configs" / "tasks"),
    output:
        RESULTS + "/tasks/{task}.items.jsonl",
    log:
        RESULTS + "/tasks/{task}.items.log",
    conda:
        "../../envs/evaluate.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        folder=ROOT / "configs" / "tasks",
    shell:
        "PYTHONWARNINGS=ignore tst-titan evaluate items --task {wildcards.task} --task-folder {params.folder:q}"
        " --out {output} > {log} 2>&1 || {{ tail -n 4 {log} >&2; exit 1; }}"


rule data_part:
    input:
        config=DATA + "/config/{step}.yaml",
        before=data_before,
        tasks=items_of_tasks,
    output:
        done=DATA + "/parts/{step}-{part}-of-{parts}.json",
    log:
        DATA + "/logs/{step}-{part}-of-{parts}.log",
    wildcard_constraints:
        step="filter|deduplicate|split|tokens",
        part=r"\d+",
        parts=r"\d+",
    conda:
        "../../envs/data.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        folder=DATA,
    shell:
        "python -m tst_titan.cli data {wildcards.step} --folder {params.folder} --workers {threads}"
        " --part {wildcards.part} --parts {wildcards.parts} --done {output.done} 2> {log}"


rule filter_documents:
    input:
        config=DATA + "/config/{step}.yaml",
        before=data_before,
        parts=data_parts,
        tasks=items_of_tasks,
    output:
        done=DATA + "/documents/{step}.done.json",
    log:
        DATA + "/logs/{step}.log",
    wildcard_constraints:
        step="filter",
    conda:
        "../../envs/data.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        folder=DATA,
    shell:
        "python -m tst_titan.cli data {wildcards.step} --folder {params.folder} --workers {threads} 2> {log}"


# The other steps are the same rule under another name: `--forcerun tokenize`.
use rule filter_documents as deduplicate_documents with:
    wildcard_constraints:
        step="deduplicate",
    resources:
        mem_mb=32000,
        runtime=720,


use rule filter_documents as split_documents with:
    wildcard_constraints:
        step="split",


use rule filter_documents as make_tokenizer with:
    output:
        done=DATA + "/tokenizer/{step}.done.json",
    wildcard_constraints:
        step="tokenizer",


use rule filter_documents as tokenize with:
    output:
        done=DATA + "/tokens/{step}.done.json",
    wildcard_constraints:
        step="tokens",


rule data_manifest:
    input:
        done=DATA_DONE["tokens"],
    output:
        manifest=DATA + "/manifest.json",
    log:
        DATA + "/logs/manifest.log",
    conda:
        "../../envs/data.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        folder=DATA,
    shell:
        "python -m tst_titan.cli data manifest --folder {params.folder} --workers {threads} 2> {log}"


rule mutual_information:
    input:
        manifest=DATA + "/manifest.json",
    output:
        statistics=DATA + "/statistics/mutual_information.json",
    log:
        DATA + "/logs/mutual_information.log",
    conda:
        "../../envs/data.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        folder=DATA,
    shell:
        "python -m tst_titan.cli data mutual_information --folder {params.folder} --done {output.statistics}"
        " 2> {log}"
