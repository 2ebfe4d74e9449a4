"""Every experiment that ships resolves at every scale that ships, and every corpus parses."""

from pathlib import Path

import pytest

from tst_titan.config.project import Project
from tst_titan.config.resolve import Catalog, resolve, stages_of
from tst_titan.data.config import load_corpus

ROOT = Path(__file__).parents[2]
SCALES = sorted(path.stem for path in (ROOT / "configs/scales").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs/experiments").glob("*.yaml"))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_resolves_and_the_comparison_accepts_it(experiment, scale):
    from tst_titan.compare import ComparisonSpec

    project = Project.open(ROOT, {"scale": scale, "experiments": [experiment]})
    found = project.experiment(experiment)
    assert stages_of([found])
    spec = ComparisonSpec.from_mapping(project.comparison_spec(found))
    assert len(spec.runs) == len(found.runs)


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
