"""Figures and the page: drawn from what compare wrote, cheap, and redrawn when the code that draws them changes."""

import os


report: "../report/workflow.rst"


CONFIGFILE = os.path.relpath(ROOT / "configs/demo.yaml")


def report_code(*patterns):
    """Files of the report that match, for a rule's input: Snakemake does not see what a module imports."""
    folder = ROOT / "tst_titan" / "report"
    return sorted(str(path) for each in patterns for path in folder.glob(each))


# An edit of one of these draws again (tests/report compares the lists with what is imported).
SHARED = ["../text.py", "../compare/**/*.py", "text.py"]
FIGURE_CODE = report_code("figures.py", "draw_*.py", *SHARED)
PAGE_CODE = report_code(
    "page.py", "provenance.py", "chart.*", "draw_curves.py", *SHARED
)
PAGE_CODE += report_code(
    "published_table.py", "tables.py", "html.py", "*.html", "page.css"
)

FIGURES = RESULTS + "/figures/{scale}/{experiment}"
PAGES = RESULTS + "/report/{scale}/{experiment}.html"
STATISTICS = RESULTS + "/data/{corpus}/statistics/mutual_information.json"
TABLES = RESULTS + "/tables/{scale}/{table}"


def trains(experiment, scale):
    """Whether an experiment has runs; the corpus alone is measured in the others."""
    return bool(PROJECT.experiment(experiment, scale).runs)


def drawn_from(experiment, scale):
    """What an experiment's figures are drawn from."""
    if trains(experiment, scale):
        return f"{RESULTS}/compare/{scale}/{experiment}/comparison.json"
    corpus = PROJECT.corpus_measured(PROJECT.experiment(experiment, scale))
    return STATISTICS.format(corpus=corpus)


def tables_of(experiment, scale):
    """Files of the paper's tables that are read from an experiment."""
    tables = PROJECT.experiment(experiment, scale).config.tables
    return [
        f"{TABLES.format(scale=scale, table=table)}.{kind}"
        for table in tables
        for kind in ("csv", "html")
    ]


def pages():
    """Pages of the experiments wanted."""
    return [PAGES.format(scale=SCALE, experiment=name) for name in experiments_wanted()]


def results_of(experiments):
    """What a target of these experiments makes: their pages, the index, their tables; nothing while others are wanted."""
    if not set(experiments) <= set(experiments_wanted()):
        return []
    files = [path for name in experiments for path in tables_of(name, SCALE)]
    return [f"{RESULTS}/report/index.html", *files]


def figure_options(wildcards):
    """How the figures' source is to be read."""
    experiment, scale = wildcards.experiment, wildcards.scale
    if not trains(experiment, scale):
        return f"--experiment {experiment} --scale {scale}"
    token_only = PROJECT.experiment(experiment, scale).config.token_phase_only
    return "--token-phase-only" if token_only else ""


def corpora_of(experiment, scale):
    """Manifests of the corpora that an experiment's runs read, or of the one that it measures."""
    found = PROJECT.experiment(experiment, scale)
    names = {corpus_of(run.recipe) for run in found.runs}
    names = names or {PROJECT.corpus_measured(found)}
    return [f"{RESULTS}/data/{name}/manifest.json" for name in sorted(names)]


def print_answer():
    """Last lines of a target that makes pages: what it found, and where the pages are."""
    from tst_titan.report.terminal import summary

    folders = [
        Path(drawn_from(name, SCALE)).parent
        for name in experiments_wanted()
        if trains(name, SCALE)
    ]
    print(f"\n{summary(folders, Path(RESULTS) / 'report')}")


localrules:
    figures,
    tables,
    page,
    report,


rule figures:
    input:
        source=lambda w: drawn_from(w.experiment, w.scale),
        code=FIGURE_CODE,
    output:
        # The panels depend on what was measured, so the folder is the output.
        report(
            directory(FIGURES),
            patterns=["{panel}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{experiment} ({scale})",
            labels={"figure": "{panel}"},
        ),
    log:
        RESULTS + "/report/logs/figures-{scale}-{experiment}.log",
    conda:
        "../../envs/report.yaml"
    params:
        options=figure_options,
    shell:
        "python -m tst_titan.cli report figures {input.source} {params.options} --out {output} > {log} 2>&1"


rule tables:
    input:
        comparison=lambda w: drawn_from(PROJECT.catalog.tables()[w.table], w.scale),
        code=PAGE_CODE,
    output:
        csv=TABLES + ".csv",
        html=TABLES + ".html",
    log:
        RESULTS + "/report/logs/tables-{scale}-{table}.log",
    conda:
        "../../envs/report.yaml"
    params:
        out=TABLES,
    shell:
        "python -m tst_titan.cli report table {input.comparison} {wildcards.table} --out {params.out} > {log} 2>&1"


rule page:
    input:
        source=lambda w: drawn_from(w.experiment, w.scale),
        figures=FIGURES,
        tables=lambda w: tables_of(w.experiment, w.scale),
        data=lambda w: corpora_of(w.experiment, w.scale),
        code=PAGE_CODE,
    output:
        report(
            PAGES,
            caption="../report/page.rst",
            category="Pages",
            labels={"experiment": "{experiment}", "scale": "{scale}"},
        ),
    log:
        RESULTS + "/report/logs/page-{scale}-{experiment}.log",
    conda:
        "../../envs/report.yaml"
    params:
        tables=RESULTS + "/tables",
    shell:
        "python -m tst_titan.cli report page {input.figures} --out {output} --data {input.data} --tables {params.tables}"
        " --project {CONFIGFILE:q} > {log} 2>&1"


rule report:
    input:
        pages=pages(),
        code=PAGE_CODE,
    output:
        RESULTS + "/report/index.html",
    log:
        RESULTS + "/report/logs/index.log",
    conda:
        "../../envs/report.yaml"
    params:
        figures=RESULTS + "/figures",
    shell:
        "python -m tst_titan.cli report index {input.pages} --figures {params.figures} --out {output} > {log} 2>&1"


onsuccess:
    if any(job.rule.name == "report" for job in workflow.dag.jobs):
        print_answer()
