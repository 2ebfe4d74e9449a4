"""Held-out loss against a loop over tokens, and what heldout.json says of it."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch

from tst_titan import cli
from tst_titan.data.manifest import load_manifest
from tst_titan.data.shards import TokenStream, iterate_documents, write_sources
from tst_titan.errors import UserError
from tst_titan.evaluate import heldout

LENGTH = 10


def loss_of_every_token(model, ids) -> list[float]:
    """Loss of tokens 1, 2, ... one forward pass each, from the tokens before it in its window."""
    losses = []
    for position in range(1, len(ids)):
        start = (position - 1) // LENGTH * LENGTH
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[start:position])[None]).logits[0, -1].double()
        losses.append((torch.logsumexp(logits, 0) - logits[int(ids[position])]).item())
    return losses


@pytest.mark.parametrize("tokens", [2, LENGTH, LENGTH + 1, LENGTH + 2, 5 * LENGTH + 4, 25 * LENGTH + 1])
def test_every_token_is_predicted_once_from_its_window(corpus, model_folder, tokens):
    model = heldout.load_model(model_folder)
    stream = TokenStream.from_manifest(corpus, split="heldout")
    ends = heldout.document_ends(corpus, load_manifest(corpus))
    found = heldout.loss_over(model, stream, ends, LENGTH, tokens, batch_size=3)
    expected = np.array(loss_of_every_token(model, stream.read(0, tokens)))
    document = np.searchsorted(ends, np.arange(1, tokens), side="right")
    assert found.tokens.sum() == tokens - 1
    assert found.nats.sum() == pytest.approx(expected.sum(), rel=1e-6)
    for number in range(3):
        mine = document == number
        assert found.tokens[number] == mine.sum()
        assert found.nats[number] == pytest.approx(expected[mine].sum(), rel=1e-6)
    assert found.windows == math.ceil((tokens - 1) / LENGTH)


def test_the_batch_size_changes_nothing(corpus, model_folder):
    found = [heldout.evaluate(model_folder, corpus, 32, batch_size=size)[0] for size in (None, 1, 7)]
    nats = [one["nats_per_token"] for one in found]
    assert nats == pytest.approx([nats[0]] * 3, rel=1e-6)
    assert {one["windows"] for one in found} == {math.ceil(5_999 / 32)}


def test_documents_end_where_the_shards_say(corpus):
    manifest = load_manifest(corpus)
    # The tiny corpus holds out one shard; its training split has two.
    several = manifest.model_copy(update={"heldout": manifest.train})
    assert len(manifest.train.shards) == 2
    lengths = [len(document) for document in iterate_documents(corpus, split="train")]
    assert heldout.document_ends(corpus, several).tolist() == np.cumsum(lengths).tolist()


def test_the_files_say_what_was_scored(corpus, model_folder, tmp_path):
    out, documents = tmp_path / "heldout.json", tmp_path / "documents.csv"
    arguments = ["--model", str(model_folder), "--data-manifest", str(corpus), "--sequence-length", "32"]
    assert (
        cli.main(["evaluate", "heldout", *arguments, "--documents", str(documents), "--out", str(out)]) == 0
    )
    found = json.loads(out.read_text())
    assert found["manifest"] == "results/train/tiny/manifest.json"
    assert (found["tokens"], found["bytes"], found["documents"]) == (5_999, 6_000, 60)
    assert found["bytes_are"] == "counted" and found["sequence_length"] == 32
    nats = found["nats_per_token"] * found["tokens"]
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / 6_000)
    rows = list(csv.DictReader(documents.open()))
    assert sum(int(row["tokens"]) for row in rows) == 5_999
    assert sum(float(row["nats"]) for row in rows) == pytest.approx(nats)


def test_sources_that_the_corpus_knows_are_scored_apart(corpus, model_folder, tmp_path):
    folder = tmp_path / "two"
    shutil.copytree(corpus.parent, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["heldout"]["text_bytes_by_source"] = {"docs": 4_000, "code": 2_000}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    whole, loss = heldout.evaluate(model_folder, folder / "manifest.json", LENGTH)
    assert whole["by_source"] == {} and whole["sources_are"].startswith("not known")
    sources = ["docs" if number % 3 else "code" for number in range(60)]
    write_sources(folder / "tokens/heldout", sources)
    found, loss = heldout.evaluate(model_folder, folder / "manifest.json", LENGTH)
    assert found["nats_per_token"] == whole["nats_per_token"]
    for source, text_bytes, tokens in (("docs", 4_000, 4_000), ("code", 2_000, 1_999)):
        own = found["by_source"][source]
        scored = [number for number in range(60) if sources[number] == source]
        nats = sum(loss.nats[number] for number in scored)
        assert (own["tokens"], own["bytes"], own["documents"]) == (tokens, text_bytes, len(scored))
        assert own["nats_per_token"] == pytest.approx(nats / tokens)
        assert own["bits_per_byte"] == pytest.approx(nats / math.log(2) / text_bytes)
        assert own["stderr_nats_per_token"] > 0
    assert [row.split(",")[3] for row in heldout.document_table(loss).splitlines()[1:]] == sources
    limited, _ = heldout.evaluate(model_folder, folder / "manifest.json", LENGTH, limit=250)
    assert limited["by_source"]["code"]["bytes"] == 100 and limited["by_source"]["docs"]["bytes"] == 150
    write_sources(folder / "tokens/heldout", sources[:-1])
    with pytest.raises(UserError, match="59 sources of 60 held-out documents"):
        heldout.evaluate(model_folder, folder / "manifest.json", LENGTH)


def test_a_limit_scores_the_first_tokens_and_their_share_of_the_bytes(corpus, model_folder):
    found, loss = heldout.evaluate(model_folder, corpus, LENGTH, limit=250)
    everything, _ = heldout.evaluate(model_folder, corpus, LENGTH)
    assert (found["tokens"], found["bytes"], found["documents"]) == (249, 250, 3)
    assert found["bytes_are"] == "in proportion to the tokens scored" and found["limited_to_tokens"] == 250
    assert loss.tokens[:4].tolist() == [99, 100, 50, 0]
    assert found["nats_per_token"] != everything["nats_per_token"]


def test_the_standard_error_is_that_of_a_mean_over_documents():
    # Documents of equal length: the error of the mean of their means.
    loss = heldout.Loss(np.array([5.0, 10.0, 15.0]), np.array([10, 10, 10]), windows=3)
    assert loss.standard_error == pytest.approx(0.5 / math.sqrt(3))


def test_a_folder_without_a_finished_export_is_refused(corpus, tmp_path, capsys):
    arguments = ["--model", str(tmp_path), "--data-manifest", str(corpus), "--sequence-length", "8"]
    assert cli.main(["evaluate", "heldout", *arguments, "--out", str(tmp_path / "heldout.json")]) == 2
    assert f"{tmp_path}: no finished export" in capsys.readouterr().err
    assert not (tmp_path / "heldout.json").exists()


@pytest.mark.parametrize(
    ("length", "limit", "words"),
    [(129, None, "found 129.*1 to 128"), (0, None, "found 0"), (8, 1, "1 held-out tokens to score")],
)
def test_windows_that_cannot_be_are_refused(corpus, model_folder, length, limit, words):
    with pytest.raises(UserError, match=words):
        heldout.evaluate(model_folder, corpus, length, limit=limit)


def test_a_model_of_another_corpus_is_refused(corpus, model_folder, tmp_path):
    manifest = json.loads(corpus.read_text())
    manifest["tokenizer"]["vocab_size"] = 65
    other = corpus.with_name("other.json")
    other.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="vocab_size: found 64; the tokenizer of corpus tiny has 65"):
        heldout.evaluate(model_folder, other, 8)


def test_a_diverged_model_is_named(corpus, model_folder, monkeypatch):
    model = heldout.load_model(model_folder)
    with torch.no_grad():
        model.lm_head.weight[3, 3] = math.nan
    monkeypatch.setattr(heldout, "load_model", lambda folder: model)
    with pytest.raises(UserError, match="diverged"):
        heldout.evaluate(model_folder, corpus, 8)
