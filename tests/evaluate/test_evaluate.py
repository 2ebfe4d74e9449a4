"""Held-out loss against a loop over tokens, the local task, and the real harness on a tiny exported model."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

from tests.corpus import write_corpus
from tst_titan.data.shards import TokenStream
from tst_titan.errors import UserError
from tst_titan.evaluate import heldout, local_task, tasks

VOCABULARY, LENGTH = 64, 10


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "tiny", tokens=60_000, vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, corpus):
    """A random Llama with the corpus's tokenizer, as an export leaves it."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_file=str(corpus.parent / "tokenizer/tokenizer.json"), eos_token="<|endoftext|>"
    ).save_pretrained(folder)
    (folder / "export.json").write_text("{}")
    return folder


@pytest.mark.parametrize("tokens", [2, LENGTH, LENGTH + 1, 5 * LENGTH + 4])
def test_every_token_is_predicted_once_from_its_window(corpus, model_folder, tokens):
    model = heldout.load_model(model_folder)
    stream = TokenStream.from_manifest(corpus, split="heldout")
    found = heldout.loss_over(model, stream, LENGTH, tokens, batch_size=3)
    ids = stream.read(0, tokens)
    total = 0.0
    for position in range(1, tokens):
        start = (position - 1) // LENGTH * LENGTH
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[start:position])[None]).logits[0, -1].double()
        total += (torch.logsumexp(logits, 0) - logits[int(ids[position])]).item()
    assert found.tokens == tokens - 1
    assert found.nats == pytest.approx(total, rel=1e-5)
    assert len(found.window_means) == math.ceil((tokens - 1) / LENGTH)


def test_the_file_says_what_was_scored(corpus, model_folder, tmp_path):
    out = tmp_path / "heldout.json"
    arguments = ["--model", str(model_folder), "--data-manifest", str(corpus), "--stage-manifest", "x"]
    assert heldout.main([*arguments, "--sequence-length", "32", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["tokens"] == 5_999 and found["bytes"] == 6_000 and found["manifest"] == "x"
    nats = found["nats_per_token"] * found["tokens"]
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / 6_000)
    assert 0 < found["stderr_nats_per_token"] < 0.1


def test_the_standard_error_is_that_of_the_mean():
    loss = heldout.Loss(nats=6.0, tokens=6, window_means=(0.5, 1.0, 1.5))
    assert loss.standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert math.isnan(heldout.Loss(1.0, 1, (1.0,)).standard_error)


def test_a_folder_without_a_finished_export_is_refused(corpus, tmp_path):
    with pytest.raises(UserError, match="no finished export"):
        heldout.load_model(tmp_path)


def documents_for_tasks():
    generator = np.random.default_rng(3)
    return [generator.integers(1, VOCABULARY, size=size) for size in (30, 100, 120, 150, 88, 89, 200)]


def as_text(ids):
    return " ".join(map(str, ids))


def test_items_hold_the_true_ending_at_the_labelled_place():
    documents = documents_for_tasks()
    items = local_task.make_items(documents, as_text, count=4, seed=1)
    assert len(items) == 4 and items == local_task.make_items(documents, as_text, count=4, seed=1)
    assert items != local_task.make_items(documents, as_text, count=4, seed=2)
    for item in items:
        whole = f"{item['context']} {item['endings'][item['label']]}"
        sources = [as_text(document) for document in documents]
        assert sum(whole in source for source in sources) == 1
        assert len(set(item["endings"])) == 4
        home = next(source for source in sources if item["context"] in source)
        assert not any(ending in home for i, ending in enumerate(item["endings"]) if i != item["label"])


def test_labels_are_spread_over_the_four_places():
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, 10_000, size=120) for _ in range(200)]
    labels = [item["label"] for item in local_task.make_items(documents, as_text, count=200, seed=0)]
    assert all(labels.count(place) > 25 for place in range(4))


def test_more_items_than_documents_take_other_pieces():
    items = local_task.make_items(documents_for_tasks(), as_text, count=12, seed=1)
    assert len(items) == 12 and len({item["context"] for item in items}) == 12


def test_items_cut_inside_a_character_are_left_out():
    documents = [np.full(100, 7 + index) for index in range(6)]
    assert local_task.make_items(documents, lambda ids: "\ufffd", count=3, seed=0) == []


def test_the_real_harness_scores_the_local_task(corpus, model_folder, tmp_path):
    folder = tmp_path / "task"
    assert local_task.main(["--data-manifest", str(corpus), "--out", str(folder), "--items", "12"]) == 0
    (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump({"tasks": [local_task.TASK], "limit": 10}))
    out = tmp_path / "tasks.json"
    arguments = ["--model", str(model_folder), "--config", str(tmp_path / "evaluation.yaml")]
    assert tasks.main([*arguments, "--task-folder", str(folder), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    scores = found["tasks"][local_task.TASK]
    assert scores["n"] == 10 and scores["samples_limit"] == 10 and scores["version"] == 1.0
    assert scores["acc"] == pytest.approx(_accuracy_by_hand(folder, model_folder, 10))
    assert found["add_bos"] is False and found["num_fewshot"] == 0


def _accuracy_by_hand(folder, model_folder, count) -> float:
    from transformers import AutoTokenizer

    model, tokenizer = heldout.load_model(model_folder), AutoTokenizer.from_pretrained(model_folder)
    right = 0
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
        right += int(np.argmax(scores)) == item["label"]
    return right / count


def test_an_unknown_task_is_named(corpus, model_folder, tmp_path, capsys):
    (tmp_path / "evaluation.yaml").write_text(yaml.safe_dump({"tasks": ["heldout_kontinuation"]}))
    arguments = ["--model", str(model_folder), "--config", str(tmp_path / "evaluation.yaml")]
    assert tasks.main([*arguments, "--out", str(tmp_path / "tasks.json")]) == 2
    assert "heldout_kontinuation" in capsys.readouterr().err
