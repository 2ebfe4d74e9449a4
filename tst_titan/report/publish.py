"""``tst-titan results``: run experiments for real and keep what they found in a folder that is committed.

One folder an experiment (the comparison's tables, its figures as SVG, a page), and an index that holds every figure
and table of the paper against what came out here. An experiment is kept as soon as it is finished.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tst_titan.compare.claims import judge
from tst_titan.compare.drawing import read_panels
from tst_titan.compare.kinds import kind_named
from tst_titan.compare.kinds.corpus_statistics import read_mutual_information, verdict
from tst_titan.compare.results import Results, read_results
from tst_titan.config.load import read_yaml
from tst_titan.errors import UserError
from tst_titan.files import read_object, write_atomically
from tst_titan.report.provenance import provenance_of
from tst_titan.report.tables import run_text
from tst_titan.report.text import evidence
from tst_titan.run.plan import models_of, text_of
from tst_titan.run.speed import Speed
from tst_titan.tree.folder import sha256_of, stage_yaml
from tst_titan.tree.plan import Cost, Plan
from tst_titan.tree.project import Project

STAGES, STATISTICS = "stages.json", "mutual_information.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan results``."""
    parser.add_argument(
        "experiments", nargs="*", help="experiments or collections; default those of the config"
    )
    parser.add_argument("--configfile", type=Path, default=Path("configs/results.yaml"))
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="the folder that is committed")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1, help="default all")
    parser.add_argument("--plan", action="store_true", help="say what it would take, and run nothing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run what is not finished, the cheapest first; keep each experiment as it finishes; write the index.

    Returns:
        1 if an experiment failed: the others are run and kept all the same.

    Raises:
        UserError: a mistake in a config, or the folder holds results of other configs than today's.
    """
    root, config = Path.cwd(), read_yaml(arguments.configfile)
    project = Project.open(root, config, arguments.experiments)
    everything = Project.open(root, config)
    out = arguments.out / project.scale_name
    check_published(everything, out, redone=frozenset(project.experiment_names))
    plan = Plan(project, project.config.plan)
    models = models_of(plan)
    speed = Speed.measured(Path(project.results), {counts.total for counts in models.values()})
    print(text_of(plan, models, speed), flush=True)
    if arguments.plan:
        return 0
    failed = []
    for name in cheapest_first(plan):
        print(f"\n{name}", flush=True)
        command = ["snakemake", name, "--cores", str(arguments.cores)]
        if subprocess.run([*command, "--configfile", str(arguments.configfile)], check=False).returncode:
            failed.append(name)
            continue
        publish(project, name, out)
        write_atomically(arguments.out / "README.md", index_of(everything, out))
    for name in failed:
        print(
            f"{name}: failed, see above; `{' '.join(sys.argv[:1])} results {name}` goes on", file=sys.stderr
        )
    return 1 if failed else 0


def cheapest_first(plan: Plan) -> list[str]:
    """The plan's experiments by what is left to do, so that the first results come early."""
    left: dict[str, Cost] = {share.name: share.to_do for share in plan.experiments}
    return sorted(left, key=lambda name: left[name].flops)


def stages_made_from(project: Project, name: str) -> dict[str, str]:
    """Hash of the stage.yaml of every stage of an experiment, by path: what its results were made from."""
    stages = (stage for run in project.experiment(name).runs for stage in run.stages)
    return {stage.path: sha256_of(stage_yaml(stage.config)) for stage in stages}


def check_published(project: Project, folder: Path, redone: frozenset[str] = frozenset()) -> None:
    """Refuse results that other configs made.

    Args:
        project: every experiment that may lie there.
        folder: docs/results/<scale>.
        redone: those that are run again in this call.

    Raises:
        UserError: with the experiment and the first stage that differs.
    """
    for path in sorted(folder.glob(f"*/{STAGES}")):
        name = path.parent.name
        if name in redone:
            continue
        if name not in project.experiment_names:
            raise UserError(
                f"{path.parent}: the config asks for no experiment {name}; remove the folder or add it"
            )
        made, now = read_object(path, "remove the folder"), stages_made_from(project, name)
        if differing := sorted(path for path in made.keys() | now if made.get(path) != now.get(path)):
            raise UserError(
                f"{path.parent}: was made from other configs: stage {differing[0]} differs from today's. Run "
                f"`tst-titan results {name}` to make it again, or remove the folder"
            )


def publish(project: Project, name: str, out: Path) -> None:
    """Keep a finished experiment: its tables, figures and page, replaced as a whole."""
    results, scale = Path(project.results), project.scale_name
    figures = results / "figures" / scale / name
    panels = read_panels(figures)["panels"]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as temporary:
        folder = Path(temporary) / name
        folder.mkdir()
        for panel in panels:
            shutil.copy(figures / panel["svg"], folder)
        stages = stages_made_from(project, name)
        (folder / STAGES).write_text(json.dumps(stages, indent=1) + "\n", encoding="utf-8")
        if stages:
            source = results / "compare" / scale / name
            for file in ("comparison.json", "table.csv", "curves.csv"):
                shutil.copy(source / file, folder)
            compared = read_results(folder)
            of_comparison = {stage.directory for run in compared.runs for stage in run.stages}
            if not of_comparison >= {f"{results}/train/{path}" for path in stages}:
                raise UserError(
                    f"{source}: compares other runs than the config asks for: run `snakemake {name}` first"
                )
            text = _page(compared, panels)
        else:
            config = project.experiment(name).config
            data = results / "data" / project.corpus_measured(project.experiment(name))
            shutil.copy(data / "statistics" / STATISTICS, folder)
            lines = [f"# {config.title} (scale {scale})", config.shows, *map(_picture, panels)]
            text = "\n\n".join(lines) + "\n"
        (folder / "README.md").write_text(text, encoding="utf-8")
        shutil.rmtree(out / name, ignore_errors=True)
        folder.rename(out / name)


def _page(experiment: Results, panels: Sequence[dict[str, str]]) -> str:
    facts, made = experiment.facts, provenance_of(experiment)
    lines = [
        f"# {experiment.title} (scale {experiment.scale})",
        facts.question,
        f"**{facts.caveat or facts.answer}**",
    ]
    lines += [_picture(panels[0]), "```\n" + run_text(experiment).rstrip() + "\n```"]
    lines += ["\n".join(f"- {sentence.text}" for sentence in evidence(facts))]
    lines += [_picture(panel) for panel in panels[1:]]
    machines = "; ".join(dict.fromkeys(machine.partition(" on ")[0] for machine in made.machines))
    commits = ", ".join(made.commits)
    lines.append(
        f"{len(made.stages)} stages, {made.device_hours} of training, on {machines}; commit {commits}. All numbers "
        "with intervals, units and sources: [table.csv](table.csv); curves: [curves.csv](curves.csv)."
    )
    return "\n\n".join(lines) + "\n"


def _picture(panel: dict[str, str]) -> str:
    return f"![{panel['alt']}]({panel['svg']})\n\n{panel['caption']}"


def index_of(project: Project, folder: Path) -> str:
    """The index: every figure and table of the paper beside what came out here, then what the paper leaves open."""
    scale = project.scale_name
    paper, own, lacking = [], [], []
    for name in project.experiment_names:
        config = project.experiment(name).config
        page = f"[{name.replace('_', ' ')}]({scale}/{name}/README.md)"
        if not (folder / name / "README.md").is_file():
            lacking.append(name.replace("_", " "))
        elif config.claims:
            paper += [f"| {page} | {' | '.join(row)} |" for row in _rows(project, name, folder)]
        else:
            answer = read_results(folder / name).facts.answer
            own.append(f"| {page} | {config.shows} | {answer} |")
    lines = [
        "# What came out",
        f"Every experiment of the paper (arXiv 2605.06546) at scale `{scale}`: {project.scale().description} Made by "
        "`make results`, never by hand. Models here have a fraction of the paper's parameters and data, so a number "
        "that differs from the paper's says something about this size, not about the paper's. *Reproduced* and *not "
        "reproduced* mean that the 95 % interval has one sign; *cannot be told* that it has not. How each number is "
        "made: [comparison](../comparison.md).",
        "\n".join(["| | the paper | here | outcome |", "|---|---|---|---|", *paper]),
    ]
    if own:
        lines += [
            "## What the paper leaves open",
            "\n".join(["| | question | answer |", "|---|---|---|", *own]),
        ]
    if lacking:
        lines += [f"Not run yet: {', '.join(lacking)}."]
    return "\n\n".join(lines) + "\n"


def _rows(project: Project, name: str, folder: Path) -> Iterator[tuple[str, str, str]]:
    """What the paper says, what was measured, and the outcome, for every claim of an experiment."""
    config = project.experiment(name).config
    if (folder / name / STATISTICS).is_file():
        same, text = verdict(read_mutual_information(folder / name / STATISTICS))
        yield from ((claim.says, text, "reproduced" if same else "not reproduced") for claim in config.claims)
        return
    results, kind = read_results(folder / name), kind_named(config.kind)
    for claim in config.claims:
        outcome, text = judge(results, kind, claim, config.runs)
        yield claim.says, text, outcome
