"""An export means the same to transformers 4 and 5, and in bfloat16; its files are as readable as others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.evaluate.test_same_ids import BOS, EOS, TEXTS, byte_level
from tests.stages import SHAPES, Tree
from tests.titan.test_export import export, finished, moved
from tst_titan import cli
from tst_titan.data.encoding import frame
from tst_titan.data.manifest import load_manifest
from tst_titan.models.exported import EXPERT_BIAS_FILE, load_exported
from tst_titan.titan.same_logits import expert_biases

# Without what transformers 4 shares with the pinned environment: torch above all.
TRANSFORMERS_4 = ("transformers<5", "huggingface_hub<1", "tokenizers<=0.23.0")
ASK = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
found = {"version": transformers.__version__}
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.arange(60).view(1, 60)).logits
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [tokenizer(text)["input_ids"] for text in json.loads(sys.argv[1])]
    special = {"eos": tokenizer.eos_token_id, "bos": tokenizer.bos_token_id}
    found[folder] = {"logits": logits.tolist(), "ids": ids, **special}
print(json.dumps(found))
"""


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree.make(tmp_path / "results")


@pytest.fixture
def transformers_4(request) -> Path:
    """The newest transformers 4 in a folder of its own, installed once."""
    folder = Path(request.config.cache.mkdir("transformers-4")) / "packages"
    if not (folder / "transformers").is_dir():
        making = folder.with_name("making")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(making)]
        made = subprocess.run([*command, *TRANSFORMERS_4], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"transformers 4 cannot be installed: {made.stderr.strip()[-300:]}")
        making.rename(folder)
    return folder


def ask(folders: list[Path], texts: list[str], path: str) -> dict:
    """Logits and ids of exports, by the transformers of a PYTHONPATH."""
    command = [sys.executable, "-c", ASK, json.dumps(texts), *map(str, folders)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_transformers_4_and_5_compute_the_same(tree, tmp_path, transformers_4):
    """For every family, with a BOS token and without, and from weights in bfloat16."""
    tokenizer, made, wanted = byte_level(BOS), {}, {}
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for number, (name, shape) in enumerate(SHAPES.items()):
        model, out = moved(shape, bias=0.0), tmp_path / f"out-{name}"
        folder = finished(tree, shape, model)
        export.export_stage(folder, out, "bfloat16" if name == "qwen3" else "float32")
        bos = BOS if number % 2 else None
        data = load_manifest(folder.data_manifest)
        said = {"eos_token": EOS, "bos_token": bos, "bos_id": tokenizer.token_to_id(BOS) if bos else None}
        data = data.model_copy(update={"tokenizer": data.tokenizer.model_copy(update=said)})
        export._write_tokenizer(tmp_path / "tokenizer.json", data, folder.stage.model, out)
        ids = frame(tokenizer, bos).encode_batch(TEXTS[:2])
        wanted[out] = {
            "ids": [each.ids for each in ids],
            "eos": tokenizer.token_to_id(EOS),
            "bos": said["bos_id"],
        }
        with torch.no_grad():
            made[out] = load_exported(out)(torch.arange(60).view(1, 60)).logits
            if name != "qwen3":
                torch.testing.assert_close(
                    made[out], model(torch.arange(60).view(1, 60)), rtol=2e-5, atol=2e-5
                )
    for version, path in (("4", str(transformers_4)), ("5", str(Path.cwd()))):
        found = ask(list(made), TEXTS[:2], path)
        assert found.pop("version")[0] == version
        for folder, logits in made.items():
            torch.testing.assert_close(
                torch.tensor(found[str(folder)].pop("logits")), logits, rtol=2e-5, atol=2e-5
            )
            assert found[str(folder)] == wanted[folder], (version, folder.name)


@pytest.mark.parametrize("name", SHAPES)
def test_an_export_in_bfloat16_is_the_rounded_model(tree, tmp_path, name):
    shape, out = SHAPES[name], tmp_path / "out"
    model = moved(shape)
    folder = finished(tree, shape, model)
    assert cli.main(["export", str(folder.path), str(out), "--dtype", "bfloat16"]) == 0
    report = json.loads((out / "export.json").read_text())
    assert report["dtype"] == json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    tensors = load_file(out / "model.safetensors")
    # What chooses experts is no weight: rounded, it would choose others.
    exact = {key for key, tensor in tensors.items() if tensor.dtype == torch.float32}
    assert all("e_score_correction_bias" in key for key in exact) and bool(exact) == (name == "deepseek_v3")
    for biases in expert_biases(model).values():
        kept = [tensors[key] for key in exact]
        kept += list(load_file(out / EXPERT_BIAS_FILE).values()) if (out / EXPERT_BIAS_FILE).is_file() else []
        assert any(torch.equal(biases, each) for each in kept)
    change = report["rounding"]
    assert 1e-4 < change["max_abs_logit_difference"] < 0.5
    tokens = torch.randint(0, 64, (2, 64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
        torch.testing.assert_close(load_exported(out)(tokens).logits, model(tokens), rtol=2e-5, atol=2e-5)


def test_exported_files_have_the_mode_that_the_umask_gives(tree, tmp_path):
    before = os.umask(0o027)
    try:
        export.export_stage(finished(tree, SHAPES["qwen3_moe"], moved(SHAPES["qwen3_moe"])), tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {"0o640"}, modes
