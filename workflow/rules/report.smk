"""Figures and the page: drawn from what compare wrote, cheap, and redrawn when the code that draws them changes."""

import os


report: "../report/workflow.rst"


CONFIGFILE = os.path.relpath(ROOT / "configs/demo.yaml")
REPORT_CODE = ROOT / "tst_titan" / "report"
# Snakemake does not see what a module imports: an edit of one of these redraws (tests/report checks the lists).
FIGURE_MODULES = (
    ["figures.py", "panels.py", "read.py", "style.py", "text.py"]
    + [f"draw_{name}.py" for name in ("corpus", "curves", "experts", "grids")]
    + [f"draw_{name}.py" for name in ("results", "sweeps")]
)
PAGE_MODULES = (
    ["page.py", "tables.py", "provenance.py", "chart_data.py", "svg.py", "read.py"]
    + ["style.py", "text.py", "draw_curves.py", "panels.py"]
    + ["index.html", "experiment.html", "corpus.html", "provenance.html"]
    + ["macros.html", "page.css", "chart.js"]
)
TABLE_MODULES = ["published_table.py", "published_table.html"]
TABLE_MODULES += ["read.py", "text.py", "page.css"]
FIGURES = RESULTS + "/figures/{scale}/{experiment}"
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


def results_of(experiments):
    """What a target of these experiments makes: the page, and the tables; nothing while others are wanted."""
    if not set(experiments) <= set(experiments_wanted()):
        return []
    files = [path for name in experiments for path in tables_of(name, SCALE)]
    return [f"{RESULTS}/report/index.html", *files]


def figure_options(wildcards):
    """How the figures' source is to be read."""
    experiment, scale = wildcards.experiment, wildcards.scale
    if not trains(experiment, scale):
        return f"--name {experiment} --scale {scale} --mutual-information"
    token_only = PROJECT.experiment(experiment, scale).config.token_phase_only
    return "--token-phase-only --comparison" if token_only else "--comparison"


def of_experiments(kind):
    """(source, figures folder) of the wanted experiments that train, or of those that do not."""
    return [
        (drawn_from(name, SCALE), FIGURES.format(scale=SCALE, experiment=name))
        for name in experiments_wanted()
        if trains(name, SCALE) == (kind == "experiment")
    ]


def page_sources():
    """Options of the page that name what it shows, in the order of the experiments."""
    options = []
    for source, figures in of_experiments("experiment"):
        options.append(f"--experiment {Path(source).parent}:{figures}")
    for source, figures in of_experiments("corpus"):
        options.append(f"--corpus-statistics {source}:{figures}")
    options += [f"--data-manifest {path}" for path in data_manifests()]
    return " ".join(options)


def data_manifests():
    """Manifests of the corpora that the wanted experiments read."""
    return [f"{RESULTS}/data/{name}/manifest.json" for name in PROJECT.corpora()]


localrules:
    figures,
    tables,
    report,


rule figures:
    input:
        source=lambda w: drawn_from(w.experiment, w.scale),
        code=[str(REPORT_CODE / name) for name in FIGURE_MODULES],
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
        "python -m tst_titan.report.figures {params.options} {input.source} --out {output} > {log} 2>&1"


rule tables:
    input:
        comparison=lambda w: drawn_from(PROJECT.catalog.tables()[w.table], w.scale),
        code=[str(REPORT_CODE / name) for name in TABLE_MODULES],
    output:
        csv=TABLES + ".csv",
        html=TABLES + ".html",
    log:
        RESULTS + "/report/logs/tables-{scale}-{table}.log",
    conda:
        "../../envs/report.yaml"
    shell:
        "python -m tst_titan.report.published_table {input.comparison} {wildcards.table}"
        " --csv {output.csv} --html {output.html} > {log} 2>&1"


rule report:
    input:
        sources=[
            path
            for kind in ("experiment", "corpus")
            for pair in of_experiments(kind)
            for path in pair
        ],
        tables=[
            path for name in experiments_wanted() for path in tables_of(name, SCALE)
        ],
        data=data_manifests(),
        code=[str(REPORT_CODE / name) for name in PAGE_MODULES],
    output:
        report(
            RESULTS + "/report/index.html",
            caption="../report/page.rst",
            category="Page",
            labels={"figure": "report"},
        ),
    log:
        RESULTS + "/report/logs/page.log",
    conda:
        "../../envs/report.yaml"
    params:
        sources=page_sources(),
        tables=RESULTS + "/tables",
    shell:
        "python -m tst_titan.report.page --out {output} {params.sources} --tables {params.tables}"
        " --project {CONFIGFILE:q} > {log} 2>&1"
