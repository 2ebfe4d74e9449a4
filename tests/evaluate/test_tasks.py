"""The real lm-eval harness on a tiny exported model: the local task, a shipped task from the cache, and mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoTokenizer

from tests.evaluate.test_local_task import short_definition
from tst_titan import cli
from tst_titan.compare.evaluations import read_tasks
from tst_titan.errors import UserError
from tst_titan.evaluate import harness, heldout, local_task

LENGTH = ("--sequence-length", "128")
OFFLINE = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What the commands set for their own process does not outlive a test."""
    for name in OFFLINE:
        monkeypatch.setenv(name, os.environ.get(name, ""))
        if not os.environ[name]:
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def task_folder(corpus, tmp_path_factory) -> Path:
    """The local task, made of the tiny corpus."""
    folder = tmp_path_factory.mktemp("task")
    local_task.write_task(corpus, short_definition(folder), folder / "made")
    return folder / "made"


def config(folder: Path, *names: str, **settings) -> Path:
    path = folder / "evaluation.yaml"
    path.write_text(yaml.safe_dump({"tasks": list(names), **settings}))
    return path


def test_the_local_task_is_scored_as_by_hand(model_folder, task_folder, tmp_path):
    out = tmp_path / "tasks.json"
    settings = config(tmp_path, local_task.TASK, limit=20, batch_size=7)
    arguments = [
        "--model",
        str(model_folder),
        "--config",
        str(settings),
        "--task-folder",
        str(task_folder),
        *LENGTH,
    ]
    assert cli.main(["evaluate", "tasks", *arguments, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    scores = found["tasks"][local_task.TASK]
    assert (scores["n"], scores["samples_limit"], scores["version"]) == (20, 20, 1.0)
    acc, acc_norm = scores_by_hand(task_folder, model_folder, 20)
    assert scores["acc"] == pytest.approx(acc) and scores["acc_norm"] == pytest.approx(acc_norm)
    assert scores["acc_stderr"] == pytest.approx((acc * (1 - acc) / 19) ** 0.5)
    assert found["add_bos"] is False and found["num_fewshot"] == 0 and found["batch_size"] == 7
    assert cli.main(["evaluate", "tasks", *arguments, "--limit", "5", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["tasks"][local_task.TASK]["n"] == 5


def scores_by_hand(folder: Path, model_folder: Path, count: int) -> tuple[float, float]:
    """Share of items whose true ending is likeliest, in all and per character."""
    from transformers import AutoTokenizer

    model, tokenizer = heldout.load_model(model_folder), AutoTokenizer.from_pretrained(model_folder)
    right = np.zeros(2)
    for line in (folder / "items.jsonl").read_text().splitlines()[:count]:
        item = json.loads(line)
        context = tokenizer(item["context"])["input_ids"]
        scores = []
        for ending in item["endings"]:
            ids = torch.tensor([context + tokenizer(ending)["input_ids"]])
            with torch.no_grad():
                log_probabilities = model(ids).logits[0, :-1].log_softmax(-1)
            chosen = log_probabilities.gather(1, ids[0, 1:, None])[len(context) - 1 :]
            scores.append(chosen.sum().item())
        per_character = [score / len(ending) for score, ending in zip(scores, item["endings"], strict=True)]
        right += [np.argmax(scores) == item["label"], np.argmax(per_character) == item["label"]]
    return float(right[0]) / count, float(right[1]) / count


def test_a_task_without_an_accuracy_shows_its_own_metric(model_folder, tmp_path):
    """Answers that must match, a perplexity, and a group of tasks that has no score of its own."""
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"q": q, "a": "丁"}) + "\n" for q in "丁丂七丄丅")
    )
    common: dict[str, Any] = {
        "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}", "metadata": {"version": 1},
    }  # fmt: skip
    matched = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    perplexity = {
        "metric": "word_perplexity",
        "aggregation": "weighted_perplexity",
        "higher_is_better": False,
    }
    options = {"until": ["\n"], "max_gen_toks": 4}
    made: dict[str, dict[str, Any]] = {
        "answers": common | {"output_type": "generate_until", "metric_list": [matched], "generation_kwargs": options},
        "fluency": common | {"output_type": "loglikelihood_rolling", "doc_to_target": "{{q}}",
                             "metric_list": [perplexity, {"metric": "bits_per_byte"}]},
    }  # fmt: skip
    for name, content in made.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"task": name} | content))
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": list(made)}))
    out = tmp_path / "tasks.json"
    arguments = ["--model", str(model_folder), "--config", str(config(tmp_path, "both")), *LENGTH]
    assert cli.main(["evaluate", "tasks", *arguments, "--task-folder", str(tmp_path), "--out", str(out)]) == 0
    found = json.loads(out.read_text())["tasks"]
    metrics = {name: found[name].get("metric") for name in ("both", "answers", "fluency")}
    assert metrics["both"] is None and metrics["answers"]["name"] == "exact_match"
    assert (metrics["answers"]["higher_is_better"], metrics["fluency"]["higher_is_better"]) == (True, False)
    numbers, _ = read_tasks(str(out), "acc_norm_first", 0.95)
    assert numbers["accuracy/both"].reason == "a group of tasks without a score of its own"
    assert 0 <= numbers["higher/answers/exact_match"].number <= 1
    ids = [AutoTokenizer.from_pretrained(model_folder)(q)["input_ids"] for q in "丁丂七丄丅"]
    with torch.no_grad():
        logits = heldout.load_model(model_folder)(torch.tensor([[0]])).logits[0, -1].log_softmax(-1)
    by_hand = float(torch.exp(-logits[torch.tensor(ids)[:, 0]].mean()))
    assert numbers["lower/fluency/word_perplexity"].number == pytest.approx(by_hand, rel=1e-4)


def test_a_shipped_task_is_scored_offline_from_the_cache(model_folder, tmp_path):
    """The harness's own definition of arc_easy, on made-up questions where `datasets` keeps the real ones."""
    cache_arc_easy(tmp_path / "hf")
    done = score_in_a_process(
        model_folder, config(tmp_path, "arc_easy"), tmp_path / "hf", tmp_path / "tasks.json"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "tasks.json").read_text())["tasks"]
    assert list(found) == ["arc_easy"] and found["arc_easy"]["n"] == 8 and found["arc_easy"]["version"] == 1.0
    assert found["arc_easy"]["acc_norm"] is not None


def cache_arc_easy(home: Path) -> None:
    """Eight questions in the layout that `datasets` gives what it fetches from the hub."""
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    rows = [
        {
            "question": chr(0x4E00 + n),
            "choices": {"text": ["一", "丁", "丂", "七"], "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[n % 4],
        }
        for n in range(1, 9)
    ]
    home.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(str(home / "rows.parquet"))
    splits = {split: [str(home / "rows.parquet")] for split in ("train", "validation", "test")}
    builder = Parquet(
        cache_dir=str(home / "datasets"),
        repo_id="allenai/ai2_arc",
        dataset_name="ai2_arc",
        config_name="ARC-Easy",
        hash="0" * 40,
        data_files=splits,
    )
    builder.download_and_prepare()
    (made,) = (home / "datasets/allenai___ai2_arc").iterdir()
    made.rename(made.with_name("ARC-Easy"))


def score_in_a_process(model: Path, settings: Path, home: Path, out: Path) -> subprocess.CompletedProcess:
    """The command as the rule runs it: its settings must come before the libraries that read them."""
    command = [
        sys.executable,
        "-m",
        "tst_titan.cli",
        "evaluate",
        "tasks",
        "--model",
        str(model),
        "--config",
        str(settings),
    ]
    environment = {name: value for name, value in os.environ.items() if name not in OFFLINE}
    environment |= {"HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *LENGTH, "--out", str(out)], env=environment, capture_output=True, text=True
    )


def test_data_that_was_not_fetched_is_missed_without_asking_a_network(model_folder, tmp_path):
    done = score_in_a_process(
        model_folder, config(tmp_path, "piqa"), tmp_path / "hf", tmp_path / "tasks.json"
    )
    assert done.returncode == 2 and "task piqa: its data is not at hand" in done.stderr
    assert "tst-titan evaluate fetch" in done.stderr and "Retrying" not in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "tasks.json").exists()


def test_fetching_says_what_a_task_of_ones_own_holds(task_folder, tmp_path):
    out = tmp_path / "fetched.json"
    assert (
        cli.main(
            [
                "evaluate",
                "fetch",
                "--task",
                local_task.TASK,
                "--task-folder",
                str(task_folder),
                "--out",
                str(out),
            ]
        )
        == 0
    )
    found = json.loads(out.read_text())
    assert found["parts"][local_task.TASK] == {
        "version": 1.0,
        "dataset": "json",
        "dataset_name": None,
        "items": 30,
    }


@pytest.fixture
def no_index(monkeypatch):
    """The harness's whole index takes many seconds to read; here it is as good as empty."""
    from lm_eval.tasks import TaskManager

    whole = TaskManager.__init__

    def only_included(self, include_path=None, include_defaults=True):
        whole(self, include_path=include_path, include_defaults=False)

    monkeypatch.setattr(TaskManager, "__init__", only_included)


@pytest.mark.parametrize("command", ["tasks", "fetch"])
def test_an_unknown_task_is_named(no_index, model_folder, task_folder, tmp_path, capsys, command):
    out = ["--task-folder", str(task_folder), "--out", str(tmp_path / "out.json")]
    if command == "tasks":
        settings = config(tmp_path, local_task.TASK, "heldout_kontinuation")
        status = cli.main(
            ["evaluate", "tasks", "--model", str(model_folder), "--config", str(settings), *LENGTH, *out]
        )
    else:
        status = cli.main(["evaluate", "fetch", "--task", "heldout_kontinuation", *out])
    said = capsys.readouterr().err
    assert status == 2 and "found 'heldout_kontinuation' (did you mean 'heldout_continuation'?)" in said
    assert not (tmp_path / "out.json").exists()


def test_the_papers_tasks_are_found_without_the_whole_index(no_index):
    for name in ("arc_challenge", "arc_easy", "hellaswag", "mmlu", "openbookqa", "piqa", "winogrande"):
        assert name in harness.task_manager([name], []).all_tasks


@pytest.mark.parametrize("own", [True, False])
def test_an_unknown_task_is_refused_without_the_harness(task_folder, own, monkeypatch):
    """Names of tasks, groups and tags, in files that are named so and in others, one without an ending."""
    folders = [task_folder] if own else []
    known = ["piqa", "mmlu", "ai2_arc", "gsm8k", "AraDiCE_ArabicMMLU_high_stem_biology_egy", "flores_afr-eng"]
    harness.refuse_unknown([*known, *([local_task.TASK] if own else [])], folders)
    with pytest.raises(UserError, match=r"found 'arc_esay' \(did you mean 'arc_easy'\?\)"):
        harness.refuse_unknown(["piqa", "arc_esay"], folders)
    monkeypatch.setattr(harness, "find_spec", lambda name: None)
    harness.refuse_unknown(["arc_esay"], folders)  # then the rule that fetches it says so


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"tasks": []}, "evaluation.tasks: found none"),
        ({"tasks": ["piqa"], "limits": 3}, "unknown key limits (did you mean 'limit'?)"),
        ({"tasks": ["piqa"], "batch_size": 0}, "key batch_size: found 0"),
    ],
)
def test_a_mistake_in_the_config_is_told(model_folder, tmp_path, capsys, content, words):
    (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump(content))
    arguments = ["--model", str(model_folder), "--config", str(tmp_path / "evaluation.yaml"), *LENGTH]
    assert cli.main(["evaluate", "tasks", *arguments, "--out", str(tmp_path / "tasks.json")]) == 2
    assert words in capsys.readouterr().err


def test_a_folder_without_a_finished_export_is_refused(tmp_path, capsys):
    arguments = ["--model", str(tmp_path), "--config", str(config(tmp_path, "piqa")), *LENGTH]
    assert cli.main(["evaluate", "tasks", *arguments, "--out", str(tmp_path / "tasks.json")]) == 2
    assert "no finished export" in capsys.readouterr().err


def test_items_are_written_with_their_answers(task_folder, tmp_path):
    """What a corpus is compared with: choices as the harness scores them, and answers that a model has to write."""
    out = tmp_path / "items.jsonl"
    items = ["evaluate", "items", "--task-folder", str(task_folder), "--task-folder", str(tmp_path)]
    assert cli.main([*items, "--task", local_task.TASK, "--out", str(out)]) == 0
    made = [json.loads(line) for line in (task_folder / "items.jsonl").read_text().splitlines()]
    expected = {item["context"] + ending for item in made for ending in item["endings"]}
    assert {json.loads(line)["text"] for line in out.read_text().splitlines()} == expected
    (tmp_path / "sums.jsonl").write_text(
        '{"question": "What is two and two?", "answer": "two and two is four"}\n'
    )
    task = {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "sums.jsonl")}},
        "test_split": "test",
        "num_fewshot": 1,
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
    }
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(task))
    assert cli.main([*items, "--task", "sums", "--out", str(out)]) == 0
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        {"text": "What is two and two? two and two is four"}
    ]
