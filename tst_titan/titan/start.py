"""What a run begins with in place of new weights: checked against the model, and hashed.

``tst-titan start CONFIG``, called by the rule of that name, writes the manifest. Safetensors are data. ``.metadata`` of
a DCP checkpoint is a pickle, and unpickling runs what its author wrote: one that does not lie among these results is
read only with ``trust: true``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tst_titan.config.load import parse, read_yaml
from tst_titan.data.shards import sha256_of
from tst_titan.errors import UserError
from tst_titan.files import write_atomically
from tst_titan.models.exported import EXPERT_BIAS_FILE
from tst_titan.models.family import ModelConfig
from tst_titan.tree.checkpoint import METADATA
from tst_titan.tree.folder import sha256_of as sha256_of_text
from tst_titan.tree.start import HUB, is_weights

HUGGING_FACE, DCP = "hugging_face", "dcp"
_INDEX, _ONE_FILE = "model.safetensors.index.json", "model.safetensors"
# Keys of config.json that do not change what next-token training computes.
_OF_NO_WEIGHT = {
    "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "chunk_size_feed_forward", "dtype",
    "eos_token_id", "id2label", "initializer_range", "is_encoder_decoder", "label2id", "max_position_embeddings",
    "max_window_layers", "output_attentions", "output_hidden_states", "output_router_logits", "pad_token_id",
    "pretraining_tp", "problem_type", "return_dict", "router_aux_loss_coef", "torch_dtype", "training_precision",
    "transformers_version", "use_cache",
}  # fmt: skip
_WHAT_WOULD_DO = (
    "Weights must have the run's shape: give the scale's size a model (a file of configs/models) of theirs"
)
# Texts on which two tokenizers with one vocabulary differ if they cut or normalise text differently.
_PROBE = (
    "The  quick\tbrown fox's 12345 jumps.\n\n  over",
    "naïve ﬁancé — 東京, Straße; don't",
    "def f(x):\n    return x",
)


def place_of(results: Path, start: Mapping[str, Any]) -> Path:
    """Absolute folder of the weights that a manifest (or config) names."""
    return results.resolve() / start["path"]


def make_manifest(config_path: Path) -> dict[str, Any]:
    """Fetch, check and hash what ``results/start/<name>/config.yaml`` names.

    Raises:
        UserError: it cannot be fetched, is in no known format, is not trusted, or is of another model.
    """
    config = read_yaml(config_path)
    results = config_path.resolve().parents[2]
    path, revision = config["path"], None
    if path.startswith(HUB):
        path, revision = _fetch(path)
    place = place_of(results, {"path": path})
    kind = DCP if (place / METADATA).is_file() else HUGGING_FACE
    if kind == DCP and not (config["trust"] or place.resolve().is_relative_to(results / "train")):
        raise UserError(
            f"key start_from.path: found {place}, a DCP checkpoint that these results do not hold. Its {METADATA} is a "
            "pickle: reading it runs whatever its author put there. If you trust where it comes from, say so: "
            f"start_from: {{path: {place}, trust: true}}; or convert it to safetensors"
        )
    check_model(place, kind, parse(ModelConfig, config["model"], config_path))
    names = _weights_of(place) if kind == HUGGING_FACE else [p.name for p in place.iterdir() if is_weights(p)]
    files = {
        name: {"bytes": (place / name).stat().st_size, "sha256": sha256_of(place / name)}
        for name in sorted(names)
    }
    content = "\n".join([kind, *(f"{name} {entry['sha256']}" for name, entry in files.items())])
    return {
        "format": 1,
        "kind": kind,
        "path": path,
        "revision": revision,
        "files": files,
        "identity": sha256_of_text(content),
    }


def _fetch(path: str) -> tuple[str, str]:
    """Folder of a model of the hub in its cache, and its commit."""
    from huggingface_hub import snapshot_download

    name, _, revision = path.removeprefix(HUB).partition("@")
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=["*.safetensors", "*.json"],
            ignore_patterns=["*/*"],
        )
    except Exception as error:  # whatever the hub's client raises: no network, no such name, no access
        raise UserError(f"key start_from.path: {path} could not be fetched: {error}") from None
    return folder, Path(folder).name


def _weights_of(place: Path) -> list[str]:
    """Files of weights of a folder in Hugging Face's format.

    Raises:
        UserError: it has none, or lacks one.
    """
    names = [_ONE_FILE]
    if (place / _INDEX).is_file():
        names = sorted(set(json.loads((place / _INDEX).read_text(encoding="utf8"))["weight_map"].values()))
    for name in ("config.json", *names):
        if not (place / name).is_file():
            there = (
                ", ".join(sorted(each.name for each in place.iterdir()))
                if place.is_dir()
                else "no such folder"
            )
            raise UserError(
                f"key start_from.path: {place / name} is missing; a folder in Hugging Face's format has config.json "
                f"and {_ONE_FILE} (or several with {_INDEX}), a DCP checkpoint {METADATA}; found: {there}. Weights in "
                ".bin files become safetensors with transformers' save_pretrained"
            )
    return [*names, *([EXPERT_BIAS_FILE] if (place / EXPERT_BIAS_FILE).is_file() else [])]


def check_files(place: Path, manifest: Path, files: Mapping[str, Mapping[str, Any]], hashes: bool) -> None:
    """Check that the files are those that ``manifest`` was made from.

    Raises:
        UserError: one is missing or has changed.
    """
    for name, entry in files.items():
        path = place / name
        found = path.stat().st_size if path.is_file() else None
        if found != entry["bytes"] or (hashes and sha256_of(path) != entry["sha256"]):
            state = "is missing" if found is None else "is not the file that was hashed"
            raise UserError(
                f"{path}: {state}; put it back, or remove {manifest}: snakemake then makes it anew"
            )


def check_model(place: Path, kind: str, model: ModelConfig) -> None:
    """Check that weights are of this family and shape, from their headers alone.

    Raises:
        UserError: they are not; names every key that differs with both values.
    """
    from tst_titan.titan import cpu

    cpu.prepare()
    if kind == HUGGING_FACE and not model.in_transformers:
        raise UserError(
            f"{place}: in Hugging Face's format, which the run's model, a recipe of torchtitan's, does not have: give "
            "its file in configs/models the key hugging_face_config, or start from a DCP checkpoint"
        )
    if kind == HUGGING_FACE:
        _weights_of(place)
        check_config(place / "config.json", model)
    expected, found = _expected_shapes(model, kind), _found_shapes(place, kind)
    for name, shape in expected.items():
        if found.get(name) != shape:
            there = "missing" if name not in found else f"of shape {list(found[name])}"
            raise UserError(
                f"{place}: tensor {name} is {there}; the run's model has {list(shape)}. {_WHAT_WOULD_DO}"
            )


def check_config(path: Path, model: ModelConfig) -> None:
    """Check that a config.json is of this family and shape.

    Raises:
        UserError: it is not, or its weights are quantized.
    """
    given = json.loads(path.read_text(encoding="utf8"))
    ours = model.hugging_face()
    kind = given.get("model_type")
    if kind != ours.model_type:
        raise UserError(
            f"{path}: key model_type: found {kind!r}; the run's model is of family {model.family}, {ours.model_type!r} "
            f"there. {_WHAT_WOULD_DO}"
        )
    if "quantization_config" in given:
        raise UserError(
            f"{path}: key quantization_config: the weights are quantized; take the ones before it"
        )
    wanted, there = ours.to_dict(), type(ours).from_dict(given).to_dict()
    differ = [key for key in wanted if key not in _OF_NO_WEIGHT and there.get(key) != wanted[key]]
    if differ:
        lines = [
            f"{path}: key {key}: found {there.get(key)!r}; the run's model has {wanted[key]!r}"
            for key in differ
        ]
        raise UserError("\n".join([*lines, _WHAT_WOULD_DO]))


def _expected_shapes(model: ModelConfig, kind: str) -> dict[str, tuple[int, ...]]:
    import torch

    from tst_titan.titan.models import build_model_spec

    spec = build_model_spec(model)
    with torch.device("meta"):
        state = spec.model.build().state_dict()
    if kind == HUGGING_FACE:
        adapter: Any = spec.state_dict_adapter
        state = adapter(spec.model, None).to_hf(state)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _found_shapes(place: Path, kind: str) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor; of a DCP checkpoint this unpickles ``.metadata``."""
    from torch.distributed.checkpoint import FileSystemReader, HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(place)) if kind == HUGGING_FACE else FileSystemReader(str(place))
    try:
        entries = reader.read_metadata().state_dict_metadata
    except Exception as error:  # whatever safetensors or pickle meet in a file that is none
        raise UserError(f"{place}: cannot be read as a checkpoint: {error}") from None
    return {name: tuple(entry.size) for name, entry in entries.items() if hasattr(entry, "size")}


def check_tokenizer(place: Path, ours: Path, corpus: str) -> None:
    """Check that a corpus has the tokenizer of the weights; says so where these come without (a DCP checkpoint does).

    Args:
        place: folder of the weights.
        ours: the corpus's tokenizer.json.
        corpus: its name.

    Raises:
        UserError: a token has another id, or a text becomes other tokens.
    """
    from tokenizers import Tokenizer

    path = place / "tokenizer.json"
    if not path.is_file():
        print(f"{path}: missing, so nothing shows whether corpus {corpus} has its tokenizer", file=sys.stderr)
        return
    there, here = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(ours))
    ids = there.get_vocab(with_added_tokens=True)
    what_would_do = (
        f"configs/corpora/{corpus}.yaml needs the tokenizer of the weights: tokenizer: {{kind: file, path: {path}, "
        "eos_token: ...}"
    )
    for token, number in here.get_vocab(with_added_tokens=True).items():
        if ids.get(token) != number:
            raise UserError(
                f"{path}: token {token!r} has id {ids.get(token)}, but {number} in corpus {corpus}. {what_would_do}"
            )
    for text in _PROBE:
        theirs, own = (each.encode(text, add_special_tokens=False).tokens for each in (there, here))
        if theirs != own:
            raise UserError(f"{path}: makes {theirs} of {text!r}, corpus {corpus} {own}. {what_would_do}")


def load_expert_biases(parts: list[Any], place: Path) -> None:
    """Take the biases that choose experts from the file that an export has beside its weights, in place."""
    import torch
    from safetensors.torch import load_file

    path = place / EXPERT_BIAS_FILE
    if not path.is_file():
        return
    by_layer = {name.split(".")[2]: bias for name, bias in load_file(path).items()}
    with torch.no_grad():
        for part in parts:
            for name, buffer in part.named_buffers():
                if name.endswith("expert_bias_E"):
                    buffer.copy_(by_layer[name.split(".")[1]])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan start``."""
    parser.add_argument("config", type=Path, help="<results>/start/<name>/config.yaml")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the manifest beside the config."""
    manifest = make_manifest(arguments.config)
    write_atomically(arguments.config.with_name("manifest.json"), json.dumps(manifest, indent=1) + "\n")
    total = sum(entry["bytes"] for entry in manifest["files"].values())
    print(f"{manifest['path']}  {len(manifest['files'])} files, {total:,} bytes hashed", file=sys.stderr)
    return 0
