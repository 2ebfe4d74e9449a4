"""TST-Titan: reads the config, includes the rules, names the targets; nothing else."""


configfile: "configs/demo.yaml"


# For `--sdm apptainer` alone; built from envs/tst-titan.def.
container: "envs/tst-titan.sif"


include: "workflow/rules/common.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/compare.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/plan.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        f"{RESULTS}/report/index.html",


# `snakemake figure_3a`: every experiment is a target of its own.
for _experiment in PROJECT.catalog.experiments():

    rule:
        name:
            _experiment
        input:
            [] if ONLY_ASKED else f"{RESULTS}/report/index.html",
            drawn_from(_experiment, SCALE)
            if _experiment in experiments_wanted() and not ONLY_ASKED
            else [],
        localrule: True
