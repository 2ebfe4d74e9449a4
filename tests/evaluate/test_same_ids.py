"""The ids that lm-eval sends for a text are the shards', whatever a tokenizer's own file would add."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tests.data.texts import base_config, build, document, texts_of, write_corpus
from tst_titan.data.encoding import corpus_tokenizer, frame
from tst_titan.data.manifest import DataManifest
from tst_titan.data.shards import iterate_documents
from tst_titan.errors import UserError
from tst_titan.models.llama3 import Llama3

EOS, BOS = "<|endoftext|>", "<|begin_of_text|>"
SPELLED = [f"Here {BOS} is spelled, and so is {EOS}. {document(seed, 60)}" for seed in range(40, 60)]
TEXTS = [document(seed, 60) for seed in range(40)] + SPELLED
LENGTH = 64
SHAPE = Llama3(
    family="llama3",
    dim=8,
    n_layers=1,
    n_heads=2,
    n_kv_heads=2,
    ffn_dim=8,
    vocab_size=320,
    max_sequence_length=4096,
)


def byte_level(*special: str) -> Tokenizer:
    """A byte-level BPE of few entries, as Qwen's: its post-processor adds nothing."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[EOS, *special], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def framed(single: list[str]) -> Tokenizer:
    """The same with a post-processor as Llama-3's file has it."""
    tokenizer = byte_level(BOS)
    ids = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    template = processors.TemplateProcessing(single=single, special_tokens=ids)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


TOKENIZERS = {
    "llama3-like": lambda: framed([BOS, "$A"]),
    "eos-too": lambda: framed([BOS, "$A", EOS]),
    "qwen-like": byte_level,
    "trained": None,
}
CASES = [(name, bos) for name in TOKENIZERS for bos in (False, True) if (name, bos) != ("qwen-like", True)]


def corpus_with(folder: Path, name: str, bos: bool | str) -> tuple[Path, DataManifest]:
    """Manifest of a corpus of TEXTS."""
    (folder / "in").mkdir()
    (folder / "in" / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    tokenizer: dict[str, Any] = {"kind": "train", "vocab_size": 320}
    if make := TOKENIZERS[name]:
        make().save(str(folder / "tokenizer.json"))
        tokenizer = {"kind": "file", "path": str(folder / "tokenizer.json"), "eos_token": EOS}
    config = base_config(
        [{"kind": "jsonl", "path": str(folder / "in")}],
        filters={}, dedup=None, heldout={"fraction": 0.3}, tokenizer=tokenizer, tasks=1, bos=bos,
    )  # fmt: skip
    manifest = build(write_corpus(folder, config), folder / "corpus")
    assert manifest is not None
    return folder / "corpus" / "manifest.json", manifest


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{'bos' if case[1] else 'none'}")
def made(request, tmp_path_factory) -> tuple[Path, DataManifest, Path]:
    """A corpus and the export of a random model with its tokenizer."""
    from transformers import LlamaForCausalLM

    from tst_titan.titan import export

    folder = tmp_path_factory.mktemp("made")
    path, manifest = corpus_with(folder, *request.param)
    out = folder / "export"
    torch.manual_seed(0)
    LlamaForCausalLM(SHAPE.hugging_face()).save_pretrained(out)
    export._write_configs(SHAPE, manifest, "float32", out)
    export._write_tokenizer(path.parent / manifest.tokenizer.path, manifest, SHAPE, out)
    (out / "export.json").write_text("{}")
    return path, manifest, out


def asked(*arguments: Any) -> Instance:
    """A request of the harness."""
    return Instance("loglikelihood", {}, arguments, 0)


def sent(scorer: Any, ask: Any) -> list[list[int]]:
    """The ids of every forward pass."""
    seen: list[list[int]] = []
    hook = scorer.model.register_forward_pre_hook(
        lambda _, args, options: seen.extend((args[0] if args else options["input_ids"]).tolist()),
        with_kwargs=True,
    )
    ask()
    hook.remove()
    return seen


def test_every_document_has_the_ids_that_its_text_has_everywhere(made):
    from transformers import AutoTokenizer

    path, manifest, out = made
    texts, shards = texts_of(path.parent, "heldout"), [ids.tolist() for ids in iterate_documents(path)]
    assert len(texts) == len(shards) > 5 and any(EOS in text for text in texts)
    bos, eos = manifest.tokenizer.bos_id, manifest.tokenizer.eos_id
    exported = AutoTokenizer.from_pretrained(out, split_special_tokens=True)
    assert (exported.bos_token_id, exported.eos_token_id) == (bos, eos)
    for text, ids in zip(texts, shards, strict=True):
        assert ids[-1] == eos and ids.count(eos) == 1
        assert ids.count(bos) == (bos is not None) and (bos is None or ids[0] == bos)
        assert exported(text)["input_ids"] == ids[:-1] == corpus_tokenizer(path).encode(text).ids
        assert exported.decode(ids, skip_special_tokens=True) == text


def test_the_harness_sends_the_shards_ids(made):
    from tst_titan.evaluate.scorer import Scorer

    path, manifest, out = made
    scorer = Scorer(out, 4096, batch_size=1)
    begin = [] if manifest.tokenizer.bos_id is None else [manifest.tokenizer.bos_id]
    before = begin or [manifest.tokenizer.eos_id]  # what precedes a text in the stream
    pairs = list(zip(texts_of(path.parent, "heldout"), iterate_documents(path), strict=True))
    assert EOS in pairs[-1][0]
    for text, ids in [*pairs[:2], pairs[-1]]:
        plain = ids[len(begin) : -1].tolist()
        cut = text.index(" ", len(text) // 2)
        pair = sent(scorer, lambda: scorer.loglikelihood([asked(text[:cut], text[cut:])]))  # noqa: B023
        assert pair == [[*begin, *plain[:-1]]]
        alone = sent(scorer, lambda: scorer.loglikelihood([asked("", text)]))  # noqa: B023
        rolling = sent(scorer, lambda: scorer.loglikelihood_rolling([asked(text)]))  # noqa: B023
        assert alone == rolling == [[*before, *plain[:-1]]]
        options = {"until": ["\n"], "max_gen_toks": 1}
        first = sent(scorer, lambda: scorer.generate_until([asked(text, options)]))[0]  # noqa: B023
        assert first == [*begin, *plain]


@pytest.mark.parametrize("made", [("trained", True)], indirect=True)
def test_nothing_longer_than_a_training_sequence_is_sent(made):
    from tst_titan.evaluate.scorer import Scorer

    path, _, out = made
    scorer = Scorer(out, LENGTH, batch_size=2)
    text = max(texts_of(path.parent, "heldout"), key=len)
    requests = [asked(text, " and so on"), asked("It says:", text), asked("Short", " text")]
    seen = sent(scorer, lambda: scorer.loglikelihood(requests))
    assert max(map(len, seen)) == LENGTH and scorer.cut == 2
    options = {"until": ["\n"], "max_gen_toks": 1000}
    seen = sent(scorer, lambda: scorer.generate_until([asked(text, options)]))
    assert len(seen[0]) <= LENGTH - LENGTH // 2 and len(seen) <= LENGTH // 2 and scorer.cut == 3


@pytest.mark.parametrize("made", [("trained", True)], indirect=True)
def test_an_ending_longer_than_a_sequence_is_scored_piece_by_piece(made):
    """Every token once, after at most LENGTH and at least half as many tokens where there are so many."""
    from tst_titan.evaluate.scorer import Scorer

    path, _, out = made
    scorer = Scorer(out, LENGTH, batch_size=2)
    text = max(texts_of(path.parent, "heldout"), key=len)[:500]
    context, ending = scorer._encode_pair("It says:", " " + text)
    ((found, _),) = scorer.loglikelihood([asked("It says:", " " + text)])
    expected, tokens, half = 0.0, context + ending, LENGTH // 2
    for place in range(len(context), len(tokens)):
        start = len(context) + (place - len(context)) // half * half
        first = max(0, min(start + half, len(tokens)) - LENGTH - 1)
        with torch.no_grad():
            logits = scorer.model(torch.tensor([tokens[first:place]])).logits[0, -1].double()
        expected += (logits[tokens[place]] - logits.logsumexp(0)).item()
    assert len(ending) > 2 * LENGTH and found == pytest.approx(expected, rel=1e-5)


def test_an_export_of_before_sends_no_token_that_training_never_saw(tmp_path):
    """Its tokenizer has the file's own post-processor."""
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from tst_titan.evaluate.scorer import Scorer

    tokenizer = framed([BOS, "$A", EOS])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS).save_pretrained(tmp_path)
    LlamaForCausalLM(SHAPE.hugging_face()).save_pretrained(tmp_path)
    (tmp_path / "export.json").write_text("{}")
    scorer = Scorer(tmp_path, LENGTH, batch_size=1)
    ids = tokenizer.encode("It says: yes", add_special_tokens=False).ids
    assert sent(scorer, lambda: scorer.loglikelihood([asked("It says:", " yes")])) == [ids[:-1]]


def test_a_token_of_another_name_may_begin_documents(tmp_path):
    path, manifest = corpus_with(tmp_path, "trained", bos="<s>")
    assert manifest.tokenizer.bos_token == "<s>"
    assert next(iterate_documents(path))[0] == manifest.tokenizer.bos_id


@pytest.mark.parametrize(
    ("bos", "words"),
    [
        (
            True,
            f"bos: found True; the tokenizer has no token '{BOS}' and puts none before a text by itself".replace(
                "|", r"\|"
            ),
        ),
        ("<s>", "bos: found '<s>'; the tokenizer has no token '<s>'"),
        (EOS, "the token that closes a document"),
    ],
)
def test_a_beginning_that_cannot_be_is_refused(tmp_path, bos, words):
    with pytest.raises(UserError, match=words):
        corpus_with(tmp_path, "qwen-like", bos)


def test_two_texts_are_framed_each():
    tokenizer = frame(byte_level(BOS), BOS, EOS)
    plain = [tokenizer.encode(text, add_special_tokens=False).ids for text in ("one", "two")]
    bos, eos = tokenizer.token_to_id(BOS), tokenizer.token_to_id(EOS)
    assert tokenizer.encode("one", "two").ids == [bos, *plain[0], eos, bos, *plain[1], eos]
