"""Export a stage's final model to Hugging Face format, and prove that it computes the same.

``tst-titan export STAGE_FOLDER OUT_FOLDER``: one process, whatever number of ranks trained it. In
memory there is one copy of the model at a time, and one shard of it beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from tst_titan.config.load import to_yaml
from tst_titan.data.encoding import frame
from tst_titan.data.manifest import DataManifest, load_manifest
from tst_titan.data.shards import TokenStream, sha256_of
from tst_titan.errors import UserError
from tst_titan.files import allow_as_umask_says, write_if_changed
from tst_titan.models.exported import EXPERT_BIAS_FILE, SHAPE_FILE
from tst_titan.models.family import ModelConfig
from tst_titan.titan import cpu
from tst_titan.titan.same_logits import Answers, Probe, expert_biases
from tst_titan.tree.folder import StageFolder

MAX_SHARD_BYTES = 5 * 10**9  # the size that transformers writes too
PROBE_SEQUENCES = 4
MAX_PROBE_LENGTH = 256


def export_stage(folder: StageFolder, out: Path, dtype: str = "float32") -> dict[str, Any]:
    """Write weights, config and tokenizer to ``out``, check the logits, then write export.json.

    Args:
        folder: a finished stage.
        out: folder to create; ``AutoModelForCausalLM.from_pretrained(out)`` loads it, and
            `tst_titan.models.exported.load_exported` loads it with the expert biases of a mixture of experts.
        dtype: of the weights: float32 or bfloat16. The logits that are compared are those of the rounded weights.

    Returns:
        The content of export.json.

    Raises:
        UserError: the stage is unfinished or its checkpoint is gone.
        RuntimeError: the exported model's logits differ from torchtitan's, or are not finite.
    """
    cpu.prepare()
    manifest = folder.manifest()
    model = load_trained(folder, manifest)
    data = load_manifest(folder.data_manifest)
    out.mkdir(parents=True, exist_ok=True)
    (out / "export.json").unlink(missing_ok=True)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    tokens, exact = _held_out(folder, data), None
    if dtype != "float32":
        exact = Answers.of(model, tokens).logits
        _round(model, getattr(torch, dtype))
    _write_weights(model, folder.stage.model, out, dtype=getattr(torch, dtype))
    _write_expert_bias(model, folder.stage.model, out)
    _write_configs(folder.stage.model, data, folder.stage.precision, out, dtype)
    _write_tokenizer(folder.data_manifest.parent / data.tokenizer.path, data, folder.stage.model, out)
    probe = Probe.of(model, tokens, bias_apart=folder.stage.model.exported_router is not None)
    del model
    report = {
        "manifest": str(folder.manifest_path),
        "identity": manifest["identity"],
        "parameters": parameters,
        "dtype": dtype,
        "rounding": None if exact is None else probe.rounding(exact),
        **probe.compare(out),
    }
    # Not the log, which the rule still writes.
    files = sorted(path for path in out.iterdir() if path.is_file() and path.suffix != ".log")
    for path in files:
        allow_as_umask_says(path)
    report["files"] = {path.name: sha256_of(path) for path in files}
    write_if_changed(out / "export.json", json.dumps(report, indent=2) + "\n")
    return report


def load_trained(folder: StageFolder, manifest: dict[str, Any]) -> torch.nn.Module:
    """torchtitan's model of a finished stage on the CPU in float32, without parallelism.

    The experts' products are in float32 too, whatever training used, so that they can be compared.

    Raises:
        UserError: the checkpoint is missing, or is not one of this model.
    """
    from torch.distributed.checkpoint import CheckpointException, load

    from tst_titan.titan.models import build_model_spec

    checkpoint = folder.last_checkpoint(manifest, contents=True)
    model = build_model_spec(folder.stage.model, expert_precision="float32").model.build()
    state = model.state_dict()
    try:
        load(state, checkpoint_id=str(checkpoint), no_dist=True)
    except CheckpointException as error:  # not an Exception: nobody above would catch it
        reasons = "; ".join(str(failure) for failure, _ in error.failures.values())
        raise UserError(f"{checkpoint}: does not hold the model of stage.yaml: {reasons}") from error
    # The fused projections of queries, keys and values come apart in the state dict and are joined here.
    model.load_state_dict(state)
    return model.eval()


@torch.no_grad()
def _round(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Round the parameters to what ``dtype`` can hold; the biases that choose experts are buffers and stay exact."""
    for parameter in model.parameters():
        parameter.copy_(parameter.to(dtype))


def _write_weights(
    model: torch.nn.Module,
    shape: ModelConfig,
    out: Path,
    max_shard_size: int = MAX_SHARD_BYTES,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Safetensors, cut into shards with an index where they are large.

    Their names are Hugging Face's, or torchtitan's where transformers has no such architecture.
    What ``dtype`` cannot hold exactly is written in float32.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    from tst_titan.titan.models import build_model_spec

    for stale in out.glob("model*.safetensors*"):
        stale.unlink()
    state = model.state_dict()
    if shape.in_transformers:
        adapter: Any = build_model_spec(shape).state_dict_adapter
        state = adapter(model.config, None).to_hf(state)
    dtypes = {
        name: dtype if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) else tensor.dtype
        for name, tensor in state.items()
    }
    # Experts are views of one tensor; planned by shape alone they are cut like all others.
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty_like(tensor, dtype=dtypes[name], device="meta") for name, tensor in state.items()},
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for file, names in plan.filename_to_tensors.items():
        shard = {
            name: state[name].detach().to(dtypes[name]).clone(memory_format=torch.contiguous_format)
            for name in names
        }
        save_file(shard, out / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_if_changed(out / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def _write_expert_bias(model: torch.nn.Module, shape: ModelConfig, out: Path) -> None:
    """The biases that choose experts, where the Hugging Face architecture has no place for them."""
    from safetensors.torch import save_file

    (out / EXPERT_BIAS_FILE).unlink(missing_ok=True)
    biases, router = expert_biases(model), shape.exported_router
    if biases and router is not None:
        named = {name.split(".")[1]: bias.clone() for name, bias in biases.items()}
        keyed = {f"{router.module.format(layer)}.expert_bias": bias for layer, bias in named.items()}
        save_file(keyed, out / EXPERT_BIAS_FILE)


def _write_configs(
    model: ModelConfig, data: DataManifest, precision: str, out: Path, dtype: str = "float32"
) -> None:
    """config.json and generation_config.json, for transformers 5 and 4: each reads keys that the other does not."""
    from transformers import GenerationConfig

    (out / SHAPE_FILE).unlink(missing_ok=True)
    if not model.in_transformers:
        write_if_changed(out / SHAPE_FILE, to_yaml(model.model_dump(mode="json", exclude_defaults=True)))
        return
    config = model.hugging_face(
        dtype=dtype,
        bos_token_id=data.tokenizer.bos_id,
        eos_token_id=data.tokenizer.eos_id,
        training_precision=precision,
    )
    config.save_pretrained(out)
    written = json.loads((out / "config.json").read_text())
    older = {name: written[new] for name, new in config.attribute_map.items() if new in written}
    rope = dict(config.rope_parameters)
    older |= {"rope_theta": rope.pop("rope_theta"), "torch_dtype": dtype}
    if rope["rope_type"] != "default":
        older["rope_scaling"] = rope
    _write_json(out / "config.json", written | older)
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.eos_token_id
    ).save_pretrained(out)


def _write_tokenizer(source: Path, data: DataManifest, model: ModelConfig, out: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=frame(Tokenizer.from_file(str(source)), data.tokenizer.bos_token),
        bos_token=data.tokenizer.bos_token,
        eos_token=data.tokenizer.eos_token,
        model_max_length=model.max_sequence_length,
    )
    tokenizer.save_pretrained(out)
    written = json.loads((out / "tokenizer_config.json").read_text())
    # transformers 5 knows this name as that of its own class, 4 no other for any tokenizer.json.
    _write_json(out / "tokenizer_config.json", written | {"tokenizer_class": "PreTrainedTokenizerFast"})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_if_changed(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _held_out(folder: StageFolder, data: DataManifest) -> torch.Tensor:
    """Held-out tokens to compare logits on, int64, shape (PROBE_SEQUENCES, length)."""
    length = min(folder.stage.data.sequence_length, MAX_PROBE_LENGTH, data.heldout.tokens // PROBE_SEQUENCES)
    stream = TokenStream.from_manifest(folder.data_manifest, split="heldout")
    return torch.from_numpy(stream.read(0, PROBE_SEQUENCES * length)).view(PROBE_SEQUENCES, length)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``tst-titan export``."""
    parser.add_argument("folder", type=Path, help="a finished stage: <results>/train/<recipe>/<segment>/...")
    parser.add_argument("out", type=Path, help="folder for weights, config and tokenizer")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights; default float32"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Export the stage."""
    report = export_stage(StageFolder.at(arguments.folder), arguments.out, arguments.dtype)
    print(
        f"{arguments.out}  logits differ by {report['max_abs_logit_difference']:.2g} at most", file=sys.stderr
    )
    return 0
