"""Before and after training: what a target costs, and which checkpoints nothing needs any more."""


localrules:
    plan,


rule plan:
    params:
        experiments=" ".join(PROJECT.experiment_names),
        assumed=PROJECT.config.plan,
    shell:
        "tst-titan plan {params.experiments} --scale {SCALE} --results {RESULTS}"
        " --mfu {params.assumed.mfu} --peak-tflops {params.assumed.peak_tflops}"
