"""TST-Titan: reads the config, includes the rules, names the targets; nothing else."""


# Not relative to the working directory: a checkout that cannot be written is run from another folder.
configfile: f"{workflow.basedir}/configs/demo.yaml"


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


# `snakemake figure_4`, `snakemake paper`, `snakemake table_12`: experiments, collections of them, and the tables
# that are read from them are targets of their own.
for _target, _members in TARGETS.items():

    rule:
        name:
            _target
        input:
            [] if ONLY_ASKED else results_of(_members),
        localrule: True


refuse_unknown_targets()
