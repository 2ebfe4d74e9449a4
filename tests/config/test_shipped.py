"""Every experiment that ships resolves at every scale that ships, and every corpus parses."""

import pytest
import yaml

from tests.shipped import shipped_names, shipped_root
from tst_titan.compare import ComparisonSpec
from tst_titan.compare.render import MODEL_OF_SIZE, SWEPT_STEPS, SWEPT_WEIGHTS, make_spec
from tst_titan.config.corpus import load_corpus
from tst_titan.config.load import dump, parse
from tst_titan.errors import UserError
from tst_titan.paper import published_sweeps
from tst_titan.tree.project import Project
from tst_titan.tree.resolve import Catalog, resolve, stages_of

ROOT = shipped_root()
SCALES = shipped_names("scales")
CATALOG = Catalog(ROOT / "configs")
EXPERIMENTS = [name for name in CATALOG.experiments() if CATALOG.members(name) == (name,)]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_resolves_and_the_comparison_accepts_it(experiment, scale):
    project = Project.open(ROOT, {"scale": scale, "experiments": [experiment]})
    found = project.experiment(experiment)
    if found.config.kind == "corpus_statistics":
        assert not found.runs and list(project.corpora()) == [project.corpus_measured(found)]
        return
    assert stages_of([found])
    spec = parse(ComparisonSpec, yaml.safe_load(dump(make_spec(project, found))), "spec.yaml")
    assert spec == make_spec(project, found)
    assert len(spec.runs) == len(found.runs)


def test_every_figure_and_table_of_the_paper_is_a_target():
    targets = CATALOG.targets()
    assert {f"table_{number}" for number in range(1, 29)} <= set(targets)
    assert {f"figure_{number}" for number in (1, *range(3, 12))} | {
        "figure_3a",
        "figure_3b",
        "figure_3c",
    } <= set(targets)
    assert set(targets["figure_3"]) == {"figure_3a", "figure_3b", "figure_3c"}
    beyond = {"seeds", "data_bound", "curriculum", "feeding", "transfer"}
    assert beyond | {"table_1", "table_2", "figure_10"} <= set(targets["paper"])


def test_every_table_holds_the_papers_numbers_for_its_metric():
    for name, owner in CATALOG.tables().items():
        table = CATALOG.experiment(owner).tables[name]
        rows = published_sweeps(table=int(name.removeprefix("table_")))
        steps = SWEPT_STEPS[table.size, table.length]
        assert set(rows["model"]) == {MODEL_OF_SIZE[table.size]} and set(rows["total_steps"]) == {steps}
        assert set(rows["bag_weighting"]) == {SWEPT_WEIGHTS[table.weights]}
        metric = rows["metric"].iloc[0]
        assert table.metric == ("final_loss" if metric == "loss" else f"accuracy/{metric}")


SWEEPS_AND_TABLES = ["table_1", "table_2", "figure_1", "figure_3", "figure_4", "figure_5", "figure_7", "figure_8",
                     "figure_11", "seeds", "transfer"]  # fmt: skip


def trained_twice(project: Project) -> tuple[int, int]:
    """Steps that two stages with one parent train alike, as they differ in their end alone; and all steps."""
    seen: dict[str, list[int]] = {}
    for stage in project.stages.values():
        content = stage.config.model_dump_json(exclude={"end_step"})
        steps = stage.config.end_step - stage.config.start_step
        seen.setdefault(f"{stage.recipe}/{stage.parent}: {content}", []).append(steps)
    return sum(sum(sorted(steps)[:-1]) for steps in seen.values()), sum(map(sum, seen.values()))


@pytest.mark.parametrize("scale", SCALES)
def test_sweeps_and_tables_train_nothing_twice(scale):
    project = Project.open(ROOT, {"scale": scale, "experiments": SWEEPS_AND_TABLES})
    assert trained_twice(project)[0] == 0


@pytest.mark.parametrize(("scale", "most"), [("paper", 0.002), ("gpu", 0.01), ("cpu", 0.01), ("smoke", 0.02)])
def test_the_whole_paper_trains_next_to_nothing_twice(scale, most):
    """Experiments whose bag phases end between the points at which trunks are cut part from them a little early."""
    twice, steps = trained_twice(Project.open(ROOT, {"scale": scale, "experiments": ["paper"]}))
    assert twice <= most * steps


@pytest.mark.parametrize("scale", SCALES)
def test_figures_and_tables_share_their_runs(scale):
    project = Project.open(ROOT, {"scale": scale, "experiments": ["paper"]})

    def finals(name: str) -> set[str]:
        return {run.stages[-1].path for run in project.experiment(name).runs}

    assert finals("figure_4") == finals("figure_5") == finals("figure_11")
    uniform = {
        run.stages[-1].path
        for run in project.experiment("figure_8").runs
        if run.axes["weighting"] == "uniform"
    }
    assert uniform <= finals("figure_4")
    pairs = finals("figure_3a") | finals("figure_3b") | finals("figure_3c") | finals("figure_1")
    assert pairs <= finals("table_1")


def test_the_papers_grids_are_the_published_ones():
    project = Project.open(ROOT, {"scale": "paper", "experiments": ["paper"]})
    for figure, table in (("figure_4", 4), ("figure_4", 5), ("figure_4", 6), ("figure_8", 7)):
        rows = published_sweeps(table=table)
        published = {
            (int(row["bag_size"]), round(float(row["bag_step_ratio"]), 6)) for row in rows.to_dict("records")
        }
        first = rows.iloc[0]
        runs = [
            run
            for run in project.experiment(figure).runs
            if SWEPT_STEPS.get((run.size, run.length)) == first["total_steps"]
            and MODEL_OF_SIZE[run.size] == first["model"]
            and (run.role == "baseline" or SWEPT_WEIGHTS[run.axes["weighting"]] == first["bag_weighting"])
        ]
        ours = {(run.axes["bag_size"], round(run.axes["bag_fraction"], 6)) for run in runs}
        # Tables 6 and 7 leave a few cells of their rectangle empty.
        assert published <= ours and len(ours - published) <= 11
        assert all(run.stages[-1].config.end_step == first["total_steps"] for run in runs)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/corpora").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_corpus_parses(path):
    assert load_corpus(path).name == path.stem


def test_every_scale_names_corpora_that_exist():
    catalog = Catalog(ROOT / "configs")
    for name in SCALES:
        for size in catalog.scale(name).sizes.values():
            assert (ROOT / "configs/corpora" / f"{size.corpus}.yaml").is_file()


def test_the_papers_batches_are_the_published_ones():
    runs = resolve(Catalog(ROOT / "configs"), "figure_3a", "paper").runs
    assert runs[0].stages[0].config.latents_per_step == 2**21
    moe = Catalog(ROOT / "configs").scale("paper").sizes["moe"]
    assert moe.sequence_length * moe.batch_sequences == 2**23
    assert round(moe.steps["short"] * moe.tst.bag_fraction) == 12_483


def test_the_comparisons_settings_reach_it_and_mistakes_are_told_at_once():
    config = {"scale": "smoke", "experiments": ["figure_3a"], "comparison": {"last_k": 3}}
    project = Project.open(ROOT, config)
    spec = make_spec(project, project.experiment("figure_3a"))
    assert spec.options.last_k == 3 and spec.options.confidence == 0.95
    with pytest.raises(UserError, match=r"comparison.last_k.* found 0"):
        Project.open(ROOT, {**config, "comparison": {"last_k": 0}})
