"""`tst-titan check` on copies of the shipped configs with files of one's own."""

import shutil
from pathlib import Path

import pytest

from tests.shipped import shipped_root
from tst_titan import cli

REPOSITORY = Path(__file__).parents[2]
SCALE = """description: mine.
sizes:
  small:
    model: MODEL
    corpus: smoke
    sequence_length: 16
    batch_sequences: 4
    learning_rate: 1e-2
    warmup_steps: WARMUP
    steps: {short: 100}
    tst: {bag_size: 4, bag_fraction: 0.25}
"""
PAIR = "{title: t, shows: s, runs: {a: {}, b: {bags: [{bag_size: 2}]}}}\n"


@pytest.fixture
def configs(tmp_path, monkeypatch) -> Path:
    for name in ("smoke", "cpu-tiny"):
        for path in (REPOSITORY / "configs").rglob(f"{name}.yaml"):
            target = tmp_path / path.relative_to(REPOSITORY)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (tmp_path / "configs/scales/smoke.yaml").unlink()
    (tmp_path / "configs/experiments").mkdir()
    shutil.copytree(REPOSITORY / "envs", tmp_path / "envs")
    scale(tmp_path / "configs")
    (tmp_path / "configs/experiments/pair.yaml").write_text(PAIR)
    (tmp_path / "configs/demo.yaml").write_text("{scale: mine, experiments: [pair]}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "configs"


def scale(configs: Path, model: str = "cpu-tiny", warmup: int = 5) -> None:
    text = SCALE.replace("MODEL", model).replace("WARMUP", str(warmup))
    (configs / "scales/mine.yaml").write_text(text)


def checked(capsys, status: int) -> str:
    assert cli.main(["check"]) == status
    return capsys.readouterr().out


def test_the_shipped_files_have_no_mistake(monkeypatch, capsys):
    monkeypatch.chdir(shipped_root())
    out = checked(capsys, 0)
    assert "configs/experiments/figure_4.yaml" in out and "at cpu, gpu, paper, smoke" in out


def test_an_unknown_task_is_the_scales_mistake(configs, capsys):
    path = configs / "scales/mine.yaml"
    path.write_text(path.read_text() + "evaluation: {tasks: [piqa, arc_esay]}\n")
    assert (
        "configs/scales/mine.yaml: evaluation.tasks: found 'arc_esay' (did you mean 'arc_easy'?)"
        in checked(capsys, 2)
    )


def test_tasks_of_a_recipe_that_transformers_cannot_load_are_refused_and_heldout_text_is_not(configs, capsys):
    (configs / "models/mine.yaml").write_text("recipe: {module: llama3, config: llama3_debugmodel}\n")
    scale(configs, "mine")
    assert "6,163,712 parameters" in checked(capsys, 0)
    path = configs / "scales/mine.yaml"
    path.write_text(path.read_text() + "evaluation: {tasks: [piqa]}\n")
    (configs / "experiments/pair.yaml").write_text(
        PAIR.replace("{title", "{evaluate: [heldout, tasks], title")
    )
    out = checked(capsys, 2)
    assert "configs/scales/mine.yaml: key evaluation.tasks: found piqa" in out
    assert "give configs/models/mine.yaml the key hugging_face_config" in out


def test_a_scale_with_one_size_is_fine_and_a_line_says_where_an_experiment_runs(configs, capsys):
    out = checked(capsys, 0)
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("configs/")}
    assert len(lines) == 5 and "at mine" in lines["configs/experiments/pair.yaml"]


def test_every_mistake_is_told_at_once_each_with_its_file(configs, capsys):
    (configs / "models/wide.yaml").write_text("{family: llama3, dimm: 3}\n")
    (configs / "corpora/web.yaml").write_text("{sources: []}\n")
    (configs / "experiments/wrong.yaml").write_text("{title: t, shows: s, runs: {a: {tims: 2}}}\n")
    (configs / "experiments/huge.yaml").write_text("{title: t, shows: s, size: large, runs: {a: {}}}\n")
    (configs / "experiments/all.yaml").write_text("{title: t, experiments: [pair, gone]}\n")
    (configs / "experiments/two words.yaml").write_text(PAIR)
    (configs / "experiments/late.yml").write_text(PAIR)
    (configs / "mine.yaml").write_text("{scale: mine, experiments: [pear]}\n")
    out = checked(capsys, 2)
    below = out.partition("\n\n")[2]
    for words in (
        "configs/models/wide.yaml: unknown key dimm (did you mean 'dim'?)",
        "configs/corpora/web.yaml: key sources",
        "configs/experiments/wrong.yaml: unknown key runs.a.tims (did you mean 'times'?)",
        "configs/experiments/huge.yaml: no scale can express it",
        "configs/experiments/all.yaml: unknown experiment 'gone'",
        "configs/experiments/two words.yaml: its name is that of a folder of results: letters",
        "configs/experiments/late.yml: nothing reads a file that ends in .yml",
        "configs/mine.yaml: unknown experiment 'pear'",
    ):
        assert words in below, words
    assert "pair.yaml:" not in below and "mistakes" in out.splitlines()[-1]


def test_a_mistake_of_a_scale_is_told_once_not_for_every_experiment(configs, capsys):
    scale(configs, warmup=101)
    for name in ("second", "third"):
        (configs / f"experiments/{name}.yaml").write_text(PAIR)
    out = checked(capsys, 2)
    assert out.count("key warmup_steps: found 101") == 1
    assert (
        "configs/scales/mine.yaml: key warmup_steps: found 101" in out and "(met by pair and 2 more)" in out
    )


def test_a_model_that_does_not_exist_or_is_too_small_for_the_tokenizer_is_the_scales(configs, capsys):
    scale(configs, model="cpu-tinny")
    assert "configs/scales/mine.yaml: key sizes.small.model: unknown model 'cpu-tinny'" in checked(capsys, 2)
    scale(configs)
    path = configs / "models/cpu-tiny.yaml"
    lines = path.read_text().splitlines()
    path.write_text("\n".join("vocab_size: 300" if "vocab_size" in line else line for line in lines))
    assert "vocab_size: found 300" in checked(capsys, 2)


def test_without_configs_it_says_where_to_be(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check"]) == 2 and "has no folder configs" in capsys.readouterr().err


def test_what_only_torchtitan_knows_is_checked_too(configs, capsys):
    runs = """{title: t, shows: s, runs: {a: {optimizer: {no_decay: [atention_norm]}}, c: {},
               b: {titan: {training.gc_frq: 3}}, d: {optimizer: {no_decay: [biases]}, titan: {training.gc_freq: 3}}}}"""
    (configs / "experiments/keys.yaml").write_text(runs)
    (configs / "scales/mine.yaml").open("a").write("titan: {profiler.profile_frequency: 3}\n")
    out = checked(capsys, 2)
    assert (
        "keys.yaml: run a at scale mine: key optimizer.no_decay.0: found 'atention_norm', which matches no"
        in out
    )
    assert "mistake" in out and "profiler.profile_frequency (did you mean 'profiler.profile_freq'" in out
    (configs / "scales/mine.yaml").unlink()
    scale(configs)
    out = checked(capsys, 2)
    assert "run b at scale mine: unknown key titan.training.gc_frq (did you mean 'training.gc_freq'?)" in out
    assert "2 mistakes" in out
