"""Decontamination against a naive search for shared runs of words, and through the pipeline."""

import json
import random
import re
from pathlib import Path

import pytest
from datatrove.data import Document

from tests.data.texts import base_config, build, document, write_corpus
from tst_titan.config.corpus import Decontamination
from tst_titan.data.contamination import Contamination, write_index
from tst_titan.data.step import load_done
from tst_titan.errors import UserError


def write_items(folder: Path, task: str, texts: list[str]) -> Path:
    path = folder / "tasks" / f"{task}.items.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def words(text: str) -> list[str]:
    return re.findall("[a-z]+", text.lower())


def shares(one: str, other: str, length: int) -> bool:
    """Whether two texts have a run of `length` words in common."""
    a, b = words(one), words(other)
    return any(
        a[i : i + length] == b[j : j + length]
        for i in range(len(a) - length + 1)
        for j in range(len(b) - length + 1)
    )


@pytest.mark.parametrize("length", [1, 2, 5, 13])
def test_a_document_is_dropped_for_as_many_words_and_not_for_one_fewer(tmp_path: Path, length: int) -> None:
    draw = random.Random(length)
    item = [f"item{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(40)]
    config = Decontamination(tasks=("quiz",), n_grams=length)
    write_index(config, {"quiz": write_items(tmp_path, "quiz", [" ".join(item)])}, tmp_path / "index")
    found = Contamination(config, tmp_path / "index")
    seen = set()
    for shared in (0, length - 1, length, length + 1):
        for place in ("front", "middle", "end", "alone"):
            start = draw.choice([0, 40 - shared, draw.randint(0, 40 - shared)])
            before = [] if place in ("front", "alone") else ["other"] * 20
            after = [] if place in ("end", "alone") else ["other"] * 20
            text = " ".join([*before, *item[start : start + shared], *after])
            expected = shares(text, " ".join(item), length)
            assert expected == (shared >= length)
            verdict = found.filter(Document(text, "0"))
            assert verdict == ((False, "quiz") if expected else True)
            seen.add(expected)
    assert seen == {True, False}


def test_case_punctuation_and_line_ends_hide_nothing(tmp_path: Path) -> None:
    config = Decontamination(tasks=("quiz",), n_grams=6)
    items = write_items(tmp_path, "quiz", ["Who, on 3 May, climbed the (high) hill?\nAnswer: Zoë Müller"])
    write_index(config, {"quiz": items}, tmp_path / "index")
    found = Contamination(config, tmp_path / "index")
    assert found.filter(Document("it says: CLIMBED the HIGH hill... answer\n\n zoe", "0")) == (False, "quiz")
    assert found.filter(Document("it says: climbed the hill; the answer is Zoe", "0")) is True


def test_a_chinese_item_needs_its_language_or_is_one_word(tmp_path: Path) -> None:
    config = Decontamination(tasks=("quiz",), n_grams=2)
    items = write_items(tmp_path, "quiz", ["中国的首都是哪里"])
    with pytest.raises(UserError, match="no item of task quiz has 2 words"):
        write_index(config, {"quiz": items}, tmp_path / "index")


def test_contaminated_documents_are_dropped_and_counted_by_task(tmp_path: Path) -> None:
    texts = [document(seed) for seed in range(60)]
    quiz = "what is the colour of the sky on a clear day in the high mountains of spring"
    exam = "name the seven rivers that flow from the great lake to the sea in the far north of it"
    texts += [
        f"{document(100)} {quiz}.",
        f"{quiz.title()}? {document(101)}",
        f"{document(102)}\n{exam}",
        " ".join(exam.split()[:12]) * 9,
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"kind": "jsonl", "path": str(tmp_path / "in")}
    asked = {"tasks": ["quiz", "exam"]}
    config = write_corpus(tmp_path, base_config([source], filters={}, decontamination=asked))
    folder = tmp_path / "results" / "data" / "small"
    with pytest.raises(
        UserError, match=r"quiz.items.jsonl is missing; `tst-titan evaluate items --task quiz"
    ):
        build(config, folder, until="filter")
    write_items(tmp_path / "results", "quiz", [quiz])
    write_items(tmp_path / "results", "exam", [exam, "short"])
    manifest = build(config, folder, jobs=2, workers=2)
    assert manifest
    assert manifest.documents.dropped == {"decontamination": {"exam": 1, "quiz": 2}}
    assert manifest.documents.read == 64
    assert manifest.documents.kept + sum(manifest.documents.duplicates.values()) == 61
    dropped = folder / load_done(folder, "filter").folder / "dropped" / "decontamination"
    kept = [json.loads(line) for path in dropped.iterdir() for line in path.read_text().splitlines()]
    assert {each["metadata"]["contaminated_task"] for each in kept} == {"quiz", "exam"}
    # Other items are another step.
    write_items(tmp_path / "results", "exam", ["nothing of it " * 9])
    again = build(config, folder)
    assert again and again.documents.dropped == {"decontamination": {"quiz": 2}}
