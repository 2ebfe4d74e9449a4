"""Compare the runs of an experiment: arithmetic only, no pictures."""

from tst_titan.compare.elsewhere import FILES


def runs_of(wildcards):
    return PROJECT.experiment(wildcards.experiment, wildcards.scale).runs


def evaluations(key):
    """Input function: one file for the last stage of every run, where the experiment asks for it."""
    what, name = EVALUATIONS[key]

    def files(wildcards):
        if not PROJECT.evaluates(what, wildcards.experiment, wildcards.scale):
            return []
        return sorted(
            {
                f"{RESULTS}/evaluate/{run.recipe}/{run.lineage}/{name}"
                for run in runs_of(wildcards)
            }
        )

    return files


def files_made_elsewhere(wildcards):
    """Files of the runs that other trainers made."""
    experiment = PROJECT.experiment(wildcards.experiment, wildcards.scale)
    paths = (
        Path(run.made_elsewhere, name)
        for run in experiment.elsewhere.values()
        for name in (*FILES, *(file for _, file in EVALUATIONS.values()))
    )
    return [str(path) for path in paths if path.is_file()]


localrules:
    compare,


rule compare:
    input:
        spec=RESULTS + "/compare/{scale}/{experiment}/spec.yaml",
        # They are written after the stages' metrics.jsonl and heldout.jsonl, which old stages lack, and stand for them.
        manifests=lambda w: sorted(
            {
                f"{RESULTS}/train/{stage.path}/manifest.json"
                for run in runs_of(w)
                for stage in run.stages
            }
        ),
        heldout=evaluations("heldout"),
        elsewhere=files_made_elsewhere,
        documents=evaluations("heldout_documents"),
        tasks=evaluations("tasks"),
        code=sorted(
            str(path)
            for path in (ROOT / "tst_titan/compare").rglob("*.py")
            if path.parent.name != "drawing"
        ),
    output:
        comparison=RESULTS + "/compare/{scale}/{experiment}/comparison.json",
        table=RESULTS + "/compare/{scale}/{experiment}/table.csv",
        curves=RESULTS + "/compare/{scale}/{experiment}/curves.csv",
    log:
        RESULTS + "/compare/{scale}/{experiment}/compare.log",
    conda:
        "../../envs/report.yaml"
    shell:
        "python -m tst_titan.cli compare {input.spec} --out $(dirname {output.comparison}) > {log} 2>&1"
