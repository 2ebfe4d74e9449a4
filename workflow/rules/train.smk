"""One rule trains every stage; the path is the lineage."""


def parent_manifest(wildcards):
    """The parent stage's manifest; a root has none."""
    head, _, _ = wildcards.lineage.rpartition("/")
    return [f"{RESULTS}/train/{wildcards.recipe}/{head}/manifest.json"] if head else []


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
        **stage_asks(),
    shell:
        "exec python -m tst_titan.cli train $(dirname {output}) --log {log}"
