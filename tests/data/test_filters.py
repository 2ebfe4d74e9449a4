"""The filters: each reason once, and the thresholds that the config hands to datatrove."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter

from tests.data.texts import document
from tst_titan.config.corpus import Filters, LengthFilter, LinesFilter, QualityFilter, RepetitionFilter
from tst_titan.data.filters import WORDS, Length, Lines, SampleWriter, Words, make_filters


def doc(text: str) -> Document:
    """A document of this text."""
    return Document(text=text, id="x")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a" * 9, (False, "too_short")), ("a" * 10, True), ("a" * 20, True), ("a" * 21, (False, "too_long"))],
)
def test_length(text: str, expected: object) -> None:
    assert Length(LengthFilter(min_chars=10, max_chars=20)).filter(doc(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain words on\ntwo lines", True),
        (" \n ", (False, "empty")),
        ("short\n" + "many words " * 10, (False, "long_line")),
        ("\n\n".join(["some words go on and on and on"] * 9), (False, "long_mean_line")),
        ("ab\n" * 9 + "x" * 31, (False, "long_word")),
        ("+-*/ a = b\n== !=", (False, "few_letters")),
        ("abcd 1234\nefgh 5678", (False, "many_digits")),
        ("naïve café Ångström", True),
    ],
)
def test_lines(text: str, expected: object) -> None:
    config = LinesFilter(
        max_line_chars=60,
        max_mean_line_chars=29,
        max_word_chars=30,
        min_letter_fraction=0.45,
        max_digit_fraction=0.4,
    )
    assert Lines(config).filter(doc(text)) == expected


def test_lines_with_everything_off_keeps_everything() -> None:
    off = LinesFilter(
        max_line_chars=None,
        max_mean_line_chars=None,
        max_word_chars=None,
        min_letter_fraction=None,
        max_digit_fraction=None,
    )
    assert Lines(off).filter(doc("1" * 5000)) is True


def test_config_reaches_datatrove() -> None:
    config = Filters(
        quality=QualityFilter(min_alpha_words_ratio=0.25, min_doc_words=7),
        repetition=RepetitionFilter(top_n_grams={3: 0.1}, dup_n_grams={}, dup_line_frac=0.5),
        dropped_sample=0,
    )
    (first, quality), (second, repetition) = make_filters(config).items()
    assert (first, second) == ("quality", "repetition")
    assert isinstance(quality, GopherQualityFilter) and isinstance(repetition, GopherRepetitionFilter)
    assert (quality.max_non_alpha_words_ratio, quality.min_doc_words) == (0.25, 7)
    assert (repetition.top_n_grams, repetition.dup_n_grams, repetition.dup_line_frac) == (
        ((3, 0.1),),
        (),
        0.5,
    )
    assert quality.exclusion_writer is None


def test_repetition_drops_a_repeated_line() -> None:
    repetition = make_filters(Filters(repetition=RepetitionFilter()))["repetition"]
    text = document(1)
    assert repetition.filter(doc(text)) is True
    assert repetition.filter(doc("\n".join([text.splitlines()[0]] * 9))) == (False, "dup_line_frac")


def test_words_split_letters_from_punctuation() -> None:
    assert Words().word_tokenize("Don't stop_now: x+=1!!") == [
        "Don",
        "'",
        "t",
        "stop_now",
        ":",
        "x",
        "+=",
        "1",
        "!!",
    ]


def test_words_end_sentences() -> None:
    text = "One is 1.5 long. Two?  Three... \nfour\n\n五。六！"
    assert Words().sent_tokenize(text) == ["One is 1.5 long.", "Two?", "Three...", "four", "五。", "六！"]
    assert [text[a:b] for a, b in Words().span_tokenize(text)] == Words().sent_tokenize(text)


def test_a_list_names_filters_in_their_order(tmp_path: Path) -> None:
    given: Any = ({"RegexFilter": {"regex_exp": "a"}}, {"lines": {}}, {"RegexFilter": {"regex_exp": "b"}})
    filters = make_filters(given, tmp_path)
    assert list(filters) == ["RegexFilter", "lines", "RegexFilter-2"]
    assert [filters[name].filter(doc("abc")) for name in ("RegexFilter", "RegexFilter-2")] == [False, False]
    assert filters["RegexFilter-2"].filter(doc("a c")) is True


def test_words_stand_in_where_no_language_is_given() -> None:
    (quality,) = make_filters(({"GopherQualityFilter": {"min_avg_word_length": 2.5}},)).values()
    assert isinstance(quality, GopherQualityFilter)
    assert (quality.language, quality.min_avg_word_length) == (WORDS, 2.5)


def test_sample_writer_stops_at_its_limit(tmp_path: Path) -> None:
    with SampleWriter(tmp_path, limit=2) as writer:
        for number in range(5):
            writer.write(doc(f"text {number}"), 3)
    lines = (tmp_path / "00003.jsonl").read_bytes().splitlines()
    assert [orjson.loads(line)["text"] for line in lines] == ["text 0", "text 1"]


# Sentences of one subject each, so that nothing is repeated much.
CHINESE = """\
北京是中华人民共和国的首都，也是全国的政治、文化和国际交往中心。这座城市已经有三千多年的历史，留下了许多著名的古迹。
长江发源于青藏高原，全长六千多公里，最后在上海附近流入东海。沿岸的平原土地肥沃，自古以来就是重要的粮食产区。
春节是一年中最热闹的节日，人们回到家乡与父母团聚，一起包饺子、看晚会。孩子们最高兴的事情，是从长辈手里接过红包。
科学家发现，充足的睡眠能够帮助大脑整理白天学到的知识，对记忆力很有好处。医生因此建议，成年人每天应当睡七到八个小时。"""
CHINESE_QUALITY = {"min_avg_word_length": 1, "stop_words": ["的", "是", "了", "在"]}


def test_chinese_text_is_one_long_word_to_filters_without_a_language() -> None:
    filters = make_filters(Filters(quality=QualityFilter(), repetition=RepetitionFilter()))
    assert filters["quality"].filter(doc(CHINESE)) == (False, "gopher_short_doc")
    assert filters["repetition"].filter(doc(CHINESE)) is True  # it finds nothing, since it sees no words


def test_chinese_text_passes_in_its_language() -> None:
    pytest.importorskip("spacy", reason="datatrove's word tokenizer of Chinese: pip install spacy jieba")
    pytest.importorskip("jieba")
    settings = QualityFilter.model_validate({"language": "cmn", **CHINESE_QUALITY})
    filters = make_filters(Filters(quality=settings, repetition=RepetitionFilter(language="cmn")))
    for each in filters.values():
        assert each.filter(doc(CHINESE)) is True
    assert filters["quality"].filter(doc("苹果香蕉" * 100)) == (False, "gopher_enough_stop_words")
    sentence = CHINESE.partition("。")[0]
    repeated = "，".join([sentence] * 6)  # no line and no paragraph twice: only words tell
    verdict = filters["repetition"].filter(doc(repeated))
    assert isinstance(verdict, tuple) and "gram" in verdict[1]
    without = make_filters(Filters(repetition=RepetitionFilter()))["repetition"].filter(doc(repeated))
    assert without != verdict
