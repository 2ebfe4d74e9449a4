"""Export a stage's final model to Hugging Face format, and prove that it computes the same.

``python -m tst_titan.titan.export STAGE_FOLDER OUT_FOLDER``; one process, whatever number of ranks trained it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch

from tst_titan.config.schema import ModelConfig
from tst_titan.config.stage_folder import StageFolder
from tst_titan.data.manifest import DataManifest, load_manifest
from tst_titan.data.shards import TokenStream, sha256_of
from tst_titan.errors import UserError
from tst_titan.files import write_if_changed
from tst_titan.titan import cpu

# Two float32 programs that sum in another order differ by a few units in the last place of the largest term.
RELATIVE_TOLERANCE = 2e-5
PROBE_SEQUENCES = 2
MAX_PROBE_LENGTH = 256


def export_stage(folder: StageFolder, out: Path) -> dict[str, Any]:
    """Write weights, config and tokenizer to ``out``, check the logits, then write export.json.

    Args:
        folder: a finished stage.
        out: folder to create; ``AutoModelForCausalLM.from_pretrained(out)`` loads it.

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
    _write_weights(model, out)
    hf_config(folder.stage.model, data, folder.stage.precision).save_pretrained(out)
    _write_tokenizer(folder.data_manifest.parent / data.tokenizer.path, data, folder.stage.model, out)
    report = {
        "manifest": str(folder.manifest_path),
        "identity": manifest["identity"],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **_compare_logits(model, out, _probe(folder, data)),
    }
    report["files"] = {path.name: sha256_of(path) for path in sorted(out.iterdir()) if path.is_file()}
    write_if_changed(out / "export.json", json.dumps(report, indent=2) + "\n")
    return report


def load_trained(folder: StageFolder, manifest: dict[str, Any]) -> torch.nn.Module:
    """torchtitan's model of a finished stage on the CPU in float32, without parallelism.

    Raises:
        UserError: the checkpoint is missing.
    """
    from torch.distributed.checkpoint import load

    from tst_titan.titan.models import build_model_spec

    checkpoint = folder.path / manifest["checkpoint"]
    if not (checkpoint / ".metadata").is_file():
        raise UserError(f"{folder.manifest_path}: key checkpoint: {checkpoint} is missing or incomplete")
    spec = build_model_spec(folder.stage.model, expert_precision="float32")
    model = spec.model.build()
    with torch.no_grad():
        model.init_states()
        state = model.state_dict()
        load(state, checkpoint_id=str(checkpoint), no_dist=True)
        model.load_state_dict(state, strict=False)
    return model.eval()


def hf_config(model: ModelConfig, data: DataManifest | None = None, precision: str = "float32") -> Any:
    """transformers' config of the same architecture."""
    from transformers import LlamaConfig, Qwen3Config, Qwen3MoeConfig

    shared: dict[str, Any] = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_kv_heads,
        "head_dim": model.resolved_head_dim,
        "max_position_embeddings": model.max_sequence_length,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": data.tokenizer.eos_id if data else None,
        "training_precision": precision,
    }
    if model.family == "llama3":
        return LlamaConfig(intermediate_size=model.ffn_dim or 0, architectures=["LlamaForCausalLM"], **shared)
    if model.moe is None:
        return Qwen3Config(intermediate_size=model.ffn_dim or 0, architectures=["Qwen3ForCausalLM"], **shared)
    return Qwen3MoeConfig(
        architectures=["Qwen3MoeForCausalLM"],
        num_experts=model.moe.n_experts,
        num_experts_per_tok=model.moe.top_k,
        moe_intermediate_size=model.moe.expert_ffn_dim,
        intermediate_size=model.moe.expert_ffn_dim,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        **shared,
    )


def _write_weights(model: torch.nn.Module, out: Path) -> None:
    from huggingface_hub import save_torch_state_dict

    adapter = _adapter(model)
    for stale in out.glob("model*.safetensors*"):
        stale.unlink()
    # Experts come as views of one tensor, which safetensors refuses.
    state = {name: tensor.contiguous().clone() for name, tensor in adapter.to_hf(model.state_dict()).items()}
    save_torch_state_dict(state, out, metadata={"format": "pt"})


def _adapter(model: torch.nn.Module) -> Any:
    from torchtitan.models.llama3.model import Llama3Model
    from torchtitan.models.llama3.state_dict_adapter import Llama3StateDictAdapter
    from torchtitan.models.qwen3.state_dict_adapter import Qwen3StateDictAdapter

    kind: Any = Llama3StateDictAdapter if isinstance(model, Llama3Model) else Qwen3StateDictAdapter
    return kind(model.config, None)


def _write_tokenizer(source: Path, data: DataManifest, model: ModelConfig, out: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(source),
        eos_token=data.tokenizer.eos_token,
        model_max_length=model.max_sequence_length,
    )
    tokenizer.save_pretrained(out)


def _probe(folder: StageFolder, data: DataManifest) -> torch.Tensor:
    """Held-out tokens to compare logits on, int64, shape (PROBE_SEQUENCES, length)."""
    length = min(folder.stage.data.sequence_length, MAX_PROBE_LENGTH, data.heldout.tokens // PROBE_SEQUENCES)
    stream = TokenStream.from_manifest(folder.data_manifest, split="heldout")
    return torch.from_numpy(stream.read(0, PROBE_SEQUENCES * length)).view(PROBE_SEQUENCES, length)


@torch.no_grad()
def _compare_logits(model: torch.nn.Module, out: Path, tokens: torch.Tensor) -> dict[str, Any]:
    """Largest difference between torchtitan's logits and the exported model's.

    Expert biases of torchtitan's auxiliary-loss-free balancing steer which experts are chosen and have no place in
    the Hugging Face architecture: the weights are compared without them, and what leaving them out changes is
    reported beside it.
    """
    from transformers import AutoModelForCausalLM

    exported = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    found = exported(tokens).logits
    trained = model(tokens)
    biases = [buffer for name, buffer in model.named_buffers() if name.endswith("expert_bias_E")]
    report: dict[str, Any] = {"expert_bias": None}
    expected = trained
    if biases:
        largest = max(bias.abs().max().item() for bias in biases)
        for bias in biases:
            bias.zero_()
        expected = model(tokens)
        report["expert_bias"] = {
            "max_abs": largest,
            "max_abs_logit_difference_without": (trained - expected).abs().max().item(),
        }
    difference = (found - expected).abs().max().item()
    scale = max(expected.abs().max().item(), 1.0)
    report |= {"max_abs_logit_difference": difference, "max_abs_logit": scale, "probe_tokens": tokens.numel()}
    if not math.isfinite(difference) or difference > RELATIVE_TOLERANCE * scale:
        raise RuntimeError(
            f"{out}: the exported model's logits differ from torchtitan's by {difference:.3g} (largest logit "
            f"{scale:.3g}); nothing that uses this export can be trusted"
        )
    return report


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Export a stage's final model to Hugging Face format.")
    parser.add_argument("folder", type=Path, help="a finished stage: <results>/train/<recipe>/<segment>/...")
    parser.add_argument("out", type=Path, help="folder for weights, config and tokenizer")
    parsed = parser.parse_args(arguments)
    try:
        report = export_stage(StageFolder.at(parsed.folder), parsed.out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{parsed.out}  logits differ by {report['max_abs_logit_difference']:.2g} at most", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
