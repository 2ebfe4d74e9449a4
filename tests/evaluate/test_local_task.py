"""The local task's items: where they come from, how they are tokenised, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.data.texts import document
from tst_titan import cli
from tst_titan.errors import UserError
from tst_titan.evaluate import local_task
from tst_titan.evaluate.local_task import Maker, Settings

DEFINITION = Path(__file__).parents[2] / "configs/tasks/heldout_continuation.yaml"


def settings(**changes) -> Settings:
    return Settings(
        **{"version": 1, "items": 60, "context_tokens": 40, "ending_tokens": 12, "seed": 1, **changes}
    )


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level BPE as the pipeline trains it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([document(seed) for seed in range(100, 120)], trainer)
    return tokenizer


@pytest.fixture(scope="module")
def documents(tokenizer):
    texts = [document(seed, words=60 + 20 * (seed % 8)) for seed in range(30)] + ["too short", "ü€" * 200]
    return [np.array(tokenizer.encode(text).ids) for text in texts]


@pytest.fixture(scope="module")
def items(documents, tokenizer):
    return list(Maker(documents, tokenizer, settings()).items())


def test_the_true_ending_is_at_the_labelled_place_and_no_other_is(documents, tokenizer, items):
    texts = [tokenizer.decode(ids.tolist()) for ids in documents]
    assert len(items) == len({item["context"] for item in items}) == 60
    for item in items:
        homes = [text for text in texts if item["context"] in text]
        follows = [any(item["context"] + ending in home for home in homes) for ending in item["endings"]]
        assert follows == [place == item["label"] for place in range(4)]
        for place, ending in enumerate(item["endings"]):
            if place != item["label"]:
                assert any(ending in text for text in texts if text not in homes)


def test_pieces_are_as_long_as_asked_and_alike(tokenizer, items):
    for item in items:
        context = len(tokenizer.encode(item["context"]).ids)
        endings = [len(tokenizer.encode(ending).ids) for ending in item["endings"]]
        assert 20 <= context <= 40 and max(endings) <= 12
        assert min(endings) >= 9


def test_length_does_not_tell_the_true_ending(documents, tokenizer):
    """A model that knows nothing prefers short endings."""
    items = list(Maker(documents, tokenizer, settings(items=1_000, context_tokens=20)).items())
    lengths = [[len(tokenizer.encode(ending).ids) for ending in item["endings"]] for item in items]
    for extreme in (min, max):
        expected = [1 / row.count(extreme(row)) for row in lengths]
        hits = [
            share * (row[item["label"]] == extreme(row))
            for share, row, item in zip(expected, lengths, items, strict=True)
        ]
        error = 0.5 / len(items) ** 0.5
        assert len(items) > 150 and abs(sum(hits) / len(items) - 0.25) < 3 * error


def test_the_harness_cuts_an_item_into_the_documents_own_tokens(documents, tokenizer, items):
    """Otherwise an ending would look unlikely for no reason but an odd cut."""
    streams = [" ".join(map(str, ids)) for ids in documents]
    for item in items:
        context = tokenizer.encode(item["context"]).ids
        for place, ending in enumerate(item["endings"]):
            whole = tokenizer.encode(item["context"] + ending).ids
            assert whole[: len(context)] == context
            sought = whole if place == item["label"] else whole[len(context) :]
            assert any(f" {' '.join(map(str, sought))} " in f" {stream} " for stream in streams)
        # lm-eval would move such white space into the endings.
        assert item["context"] == item["context"].rstrip()


def test_endings_begin_a_word_and_never_inside_a_character(items):
    endings = [ending for item in items for ending in item["endings"]]
    unspaced = [ending for ending in endings if not ending[0].isspace()]
    assert all(set(ending) == {"ü", "€"} for ending in unspaced)
    assert 0 < len(unspaced) < len(endings) // 10


def test_every_document_gives_an_item_before_any_gives_a_second(documents, tokenizer):
    few = list(Maker(documents, tokenizer, settings(items=20)).items())
    texts = [tokenizer.decode(ids.tolist()) for ids in documents]
    homes = [next(n for n, text in enumerate(texts) if item["context"] in text) for item in few]
    assert len(few) == len(set(homes)) == 20


def test_the_seed_decides_all(documents, tokenizer, items):
    assert items == list(Maker(documents, tokenizer, settings()).items())
    assert items != list(Maker(documents, tokenizer, settings(seed=2)).items())


def test_labels_are_spread_over_the_four_places(documents, tokenizer):
    labels = [item["label"] for item in Maker(documents, tokenizer, settings(items=100)).items()]
    assert len(labels) == 100 and all(labels.count(place) > 12 for place in range(4))


def test_text_without_white_space_is_cut_anywhere():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({chr(0x4E00 + i): i for i in range(50)}, unk_token="一"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    generator = np.random.default_rng(0)
    documents = [generator.integers(0, 50, size=100) for _ in range(5)]
    items = list(Maker(documents, tokenizer, settings(items=5)).items())
    assert len(items) == 5
    assert all(len(item["context"]) == 40 and len(item["endings"][0]) == 12 for item in items)


def test_the_task_is_written_once_and_the_same(corpus, tmp_path):
    for name in ("first", "second"):
        arguments = ["--data-manifest", str(corpus), "--definition", str(short_definition(tmp_path))]
        assert cli.main(["evaluate", "local-task", *arguments, "--out", str(tmp_path / name)]) == 0
    first, second = ((tmp_path / name / "items.jsonl").read_bytes() for name in ("first", "second"))
    assert first == second and len(first.splitlines()) == 30
    task = yaml.safe_load((tmp_path / "first/heldout_continuation.yaml").read_text())
    assert task["dataset_kwargs"]["data_files"]["test"] == str(tmp_path / "first/items.jsonl")
    assert json.loads((tmp_path / "first/done.json").read_text())["items"] == 30


def short_definition(folder: Path, **changes) -> Path:
    """The shipped definition with pieces that the tiny corpus has."""
    task = yaml.safe_load(DEFINITION.read_text())
    task["metadata"] |= {"items": 30, "context_tokens": 50, "ending_tokens": 10, **changes}
    path = folder / "definition.yaml"
    path.write_text(yaml.safe_dump(task))
    return path


def test_the_shipped_pieces_fit_the_demos_sequences():
    task = yaml.safe_load(DEFINITION.read_text())
    scale = yaml.safe_load((DEFINITION.parents[1] / "scales/cpu.yaml").read_text())
    shipped = Settings.model_validate(task["metadata"])
    assert shipped.items == 500
    assert shipped.context_tokens + shipped.ending_tokens <= scale["sizes"]["small"]["sequence_length"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"context_tokens": 95}, "the 60 held-out documents give no item.*95 \\+ 10 tokens"),
        ({"items": 0}, "metadata: key items: found 0"),
        ({"item": 5}, "metadata: unknown key item.*did you mean 'items'"),
    ],
)
def test_a_task_that_cannot_be_made_is_refused(corpus, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        local_task.write_task(corpus, short_definition(tmp_path, **changes), tmp_path / "task")
    assert not (tmp_path / "task/done.json").exists()
