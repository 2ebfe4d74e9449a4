"""Before and after training: what a target costs, and which checkpoints nothing needs any more."""


localrules:
    plan,
    prune,


def pruning_text():
    """What `snakemake -n prune` says; otherwise the command itself says what it did."""
    if "prune" not in ASKED.targets or not ASKED.dryrun:
        return "Remove the checkpoints that nothing needs any more."
    text = Pruning(Path(RESULTS), PROJECT.config.keep_checkpoints).text(dry_run=True)
    return text.replace("{", "{{").replace("}", "}}")


rule plan:
    params:
        experiments=" ".join(PROJECT.experiment_names),
        assumed=PROJECT.config.plan,
    shell:
        "tst-titan plan {params.experiments} --scale {SCALE} --results {RESULTS}"
        " --mfu {params.assumed.mfu} --peak-tflops {params.assumed.peak_tflops}"


rule prune:
    params:
        keep=PROJECT.config.keep_checkpoints,
    message:
        pruning_text()
    shell:
        "tst-titan prune --keep {params.keep} --results {RESULTS}"
