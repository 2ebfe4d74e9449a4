"""Which ids a text has: said once, for the shards, the tasks and the exported tokenizer alike.

A document's ids are those of its text, in which a special token spelled out is text. Before them comes the
beginning-of-text token if the corpus has one (`bos`), after them the end-of-text token. Whatever else a tokenizer's own
post-processor would add is added nowhere.
"""

from pathlib import Path

from tokenizers import Tokenizer, processors

from tst_titan.data.manifest import load_manifest
from tst_titan.errors import UserError

# Llama-3's name for it; also that of tokenizers that are trained here.
BOS = "<|begin_of_text|>"


def frame(tokenizer: Tokenizer, before: str | None, after: str | None = None) -> Tokenizer:
    """Let a tokenizer put these special tokens, and no others, before and after every text; returns it."""
    first, last = (["<BOS>"] if before else []), (["<EOS>"] if after else [])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *last, *(f"{each}:1" for each in first), "$B:1", *(f"{each}:1" for each in last)],
        special_tokens=[
            {"id": place, "ids": [tokenizer.token_to_id(token)], "tokens": [token]}
            for place, token in (("<BOS>", before), ("<EOS>", after))
            if token
        ],
    )
    return tokenizer


def corpus_tokenizer(data_manifest: Path) -> Tokenizer:
    """The tokenizer of a corpus, which gives a text the ids that the shards have for it, but for the end-of-text token.

    Raises:
        UserError: the manifest is missing or no manifest.
    """
    made = load_manifest(data_manifest).tokenizer
    tokenizer = frame(Tokenizer.from_file(str(Path(data_manifest).parent / made.path)), made.bos_token)
    tokenizer.encode_special_tokens = True
    return tokenizer


def bos_token(tokenizer: Tokenizer, asked: bool | str, eos_token: str) -> str | None:
    """The token that begins every document; None if the corpus has none.

    Args:
        tokenizer: with its own post-processor.
        asked: the corpus's `bos`.
        eos_token: the token that closes a document.

    Raises:
        UserError: the tokenizer has no such token, or it is the end-of-text token.
    """
    if asked is False:
        return None
    own = tokenizer.encode("a")
    begins = own.special_tokens_mask[:1] == [1] and own.tokens[0]
    token = asked if isinstance(asked, str) else begins or BOS
    if tokenizer.token_to_id(token) is None:
        puts = "" if isinstance(asked, str) else " and puts none before a text by itself"
        raise UserError(
            f"bos: found {asked!r}; the tokenizer has no token {token!r}{puts}: name a token of its vocabulary, or set "
            "bos: false"
        )
    if token == eos_token:
        raise UserError(
            f"bos: found {asked!r}, which is {token!r}, the token that closes a document: it stands between documents "
            "already; set bos: false"
        )
    return token
