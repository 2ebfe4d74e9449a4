"""From sources to checked token shards: five steps and the manifest.

Each step declares a small done-file, written last, as its only output. What it works on lies beside it in folders
named by a hash of the settings: Snakemake deletes the declared outputs of a failed job, and finished tasks must
survive. The inputs config/<step>.yaml are rendered when the workflow is read, and written only if they change.
"""

from tst_titan.data.config import load_corpus

DATA = RESULTS + "/data/{corpus}"
# Done-file of the step before each step; its own settings are in config/<step>.yaml.
DATA_BEFORE = {
    "filter": [],
    "deduplicate": [DATA + "/documents/filter.done.json"],
    "split": [DATA + "/documents/deduplicate.done.json"],
    "tokens": [DATA + "/tokenizer/tokenizer.done.json"],
}


@cache
def data_jobs(corpus):
    """Number of jobs over which the steps of a corpus are spread."""
    return load_corpus(ROOT / "configs" / "corpora" / f"{corpus}.yaml").jobs


def data_parts(step):
    """Input function: the parts of a step that other jobs do; none unless the corpus asks for several jobs."""

    def parts(wildcards):
        jobs = data_jobs(wildcards.corpus)
        files = (
            f"{RESULTS}/data/{wildcards.corpus}/parts/{step}-{{part}}-of-{jobs}.json"
        )
        return expand(files, part=range(jobs)) if jobs > 1 else []

    return parts


rule data_part:
    input:
        config=DATA + "/config/{step}.yaml",
        before=lambda w: DATA_BEFORE[w.step],
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
        "python -m tst_titan.data.steps {wildcards.step} --folder {params.folder} --workers {threads}"
        " --part {wildcards.part} --parts {wildcards.parts} --done {output.done} 2> {log}"


rule filter_documents:
    input:
        config=DATA + "/config/filter.yaml",
        parts=data_parts("filter"),
    output:
        done=DATA + "/documents/filter.done.json",
    log:
        DATA + "/logs/filter.log",
    conda:
        "../../envs/data.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        folder=DATA,
    shell:
        "python -m tst_titan.data.steps filter --folder {params.folder} --workers {threads} 2> {log}"


rule deduplicate_documents:
    input:
        config=DATA + "/config/deduplicate.yaml",
        before=DATA_BEFORE["deduplicate"],
        parts=data_parts("deduplicate"),
    output:
        done=DATA + "/documents/deduplicate.done.json",
    log:
        DATA + "/logs/deduplicate.log",
    conda:
        "../../envs/data.yaml"
    threads: 8
    resources:
        mem_mb=32000,
        runtime=720,
    params:
        folder=DATA,
    shell:
        "python -m tst_titan.data.steps deduplicate --folder {params.folder} --workers {threads} 2> {log}"


rule split_documents:
    input:
        config=DATA + "/config/split.yaml",
        before=DATA_BEFORE["split"],
        parts=data_parts("split"),
    output:
        done=DATA + "/documents/split.done.json",
    log:
        DATA + "/logs/split.log",
    conda:
        "../../envs/data.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        folder=DATA,
    shell:
        "python -m tst_titan.data.steps split --folder {params.folder} --workers {threads} 2> {log}"


rule make_tokenizer:
    input:
        config=DATA + "/config/tokenizer.yaml",
        before=DATA + "/documents/split.done.json",
    output:
        done=DATA + "/tokenizer/tokenizer.done.json",
    log:
        DATA + "/logs/tokenizer.log",
    conda:
        "../../envs/data.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        folder=DATA,
    shell:
        "python -m tst_titan.data.steps tokenizer --folder {params.folder} --workers {threads} 2> {log}"


rule tokenize:
    input:
        config=DATA + "/config/tokens.yaml",
        before=DATA_BEFORE["tokens"],
        parts=data_parts("tokens"),
    output:
        done=DATA + "/tokens/tokens.done.json",
    log:
        DATA + "/logs/tokens.log",
    conda:
        "../../envs/data.yaml"
    threads: 8
    resources:
        mem_mb=16000,
        runtime=720,
    params:
        folder=DATA,
    shell:
        "python -m tst_titan.data.steps tokens --folder {params.folder} --workers {threads} 2> {log}"


rule data_manifest:
    input:
        done=DATA + "/tokens/tokens.done.json",
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
        "python -m tst_titan.data.steps manifest --folder {params.folder} --workers {threads} 2> {log}"


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
        "python -m tst_titan.data.steps mutual_information --folder {params.folder} --done {output.statistics}"
        " 2> {log}"
