"""Bags in Hugging Face's Trainer: the losses of the torchtitan stage, both phases, resuming in each, bad arguments."""

import re
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, TrainingArguments

from tests.stages import SHAPES
from tst_titan.config.schema import ModelConfig
from tst_titan.superposition import bag_labels
from tst_titan.superposition.huggingface import BagCollator, BagRows, SuperposedTrainer, accept_bags
from tst_titan.titan import cpu

cpu.prepare()

from tst_titan.titan.models import build_model_spec  # noqa: E402
from tst_titan.titan.superposition import BagLoss, with_bag_embedding  # noqa: E402

LATENTS, BAG, VOCABULARY = 8, 4, 64
ROWS = [{"input_ids": [(i * 7 + j) % 61 + 1 for j in range(LATENTS)]} for i in range(200)]


def gpt2() -> Any:
    torch.manual_seed(0)
    shape: Any = {"n_positions": LATENTS, "n_embd": 32, "n_layer": 2, "n_head": 4}
    dropouts: Any = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return AutoModelForCausalLM.from_config(GPT2Config(vocab_size=VOCABULARY, **shape, **dropouts))


def trainer(out: Path, model: Any = None, *, bag_steps: int = 4, rows: Any = ROWS, **arguments: Any):
    given: Any = {
        "output_dir": str(out),
        "max_steps": 8,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    args = TrainingArguments(**given | arguments)
    return SuperposedTrainer(model or gpt2(), args, train_dataset=rows, bag_size=BAG, bag_steps=bag_steps)


def losses(found: SuperposedTrainer) -> list[tuple[float, float]]:
    return [(line["bag_size"], line["loss"]) for line in found.state.log_history if "loss" in line]


@pytest.mark.parametrize("name", ["llama3", "llama3_2", "qwen3"])
def test_the_same_weights_and_batch_have_the_loss_of_the_torchtitan_stage(name, tmp_path):
    shape = ModelConfig.model_validate(SHAPES[name])
    spec = build_model_spec(shape)
    torch.manual_seed(0)
    titan = with_bag_embedding(spec.model).build()
    with torch.no_grad():
        titan.init_states()
    assert spec.state_dict_adapter is not None
    weights = spec.state_dict_adapter(spec.model, None).to_hf(titan.state_dict())
    model = AutoModelForCausalLM.from_config(shape.hugging_face())
    model.load_state_dict(weights, strict=not shape.tied_embeddings)  # a tied head has no weight in the file
    inputs, labels = bag_labels(torch.randint(0, VOCABULARY, (3, BAG * (LATENTS + 1))), BAG)
    loss = BagLoss.Config(bag_size=BAG, vocab_size=VOCABULARY, weights=(1.0,) * BAG).build()
    expected = loss(titan(inputs), labels, torch.tensor(labels.numel()))[0]
    expected.backward()
    found = trainer(tmp_path, model).compute_loss(model, {"input_ids": inputs, "labels": labels})
    found.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    ours, theirs = model.get_input_embeddings().weight.grad, titan.tok_embeddings.weight.grad
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_a_model_with_learned_positions_has_the_mean_of_ordinary_losses(tmp_path):
    model = gpt2().double()
    compute_loss = trainer(tmp_path, model).compute_loss
    tokens = torch.randint(0, VOCABULARY, (3, LATENTS + 1, BAG))
    batch = BagCollator()([{"input_ids": window} for window in tokens])
    found = compute_loss(model, batch)
    logits = model(inputs_embeds=model.get_input_embeddings().weight[tokens[:, :-1]].mean(2)).logits
    each = [torch.nn.functional.cross_entropy(logits.mT, tokens[:, 1:, k]) for k in range(BAG)]
    torch.testing.assert_close(found, torch.stack(each).mean(), rtol=1e-7, atol=0)
    assert found.item() == pytest.approx(log(VOCABULARY), rel=0.05)


def test_a_model_that_scales_its_embeddings_embeds_the_mean_of_the_scaled():
    from transformers import Gemma3TextConfig

    shape: Any = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    config = Gemma3TextConfig(vocab_size=VOCABULARY, head_dim=8, intermediate_size=48, **shape)
    model = accept_bags(AutoModelForCausalLM.from_config(config)).eval()
    tokens = torch.arange(1, 1 + LATENTS)[None]
    same = tokens[..., None].repeat(1, 1, BAG)  # a bag of one token, s times
    torch.testing.assert_close(model(input_ids=same).logits, model(input_ids=tokens).logits)


def test_bags_then_tokens_of_every_row_once_in_lanes():
    rows = [{"input_ids": list(range(i * LATENTS, (i + 1) * LATENTS))} for i in range(40)]
    data = BagRows(rows, bag_size=3, bag_steps=2, sequences_per_step=2)
    assert data.steps == 2 + (20 - 6) and len(data) == 2 * data.steps
    first, other, second = (data[i]["input_ids"] for i in (0, 1, 2))
    assert first.flatten().tolist() == list(range(3 * (LATENTS + 1)))
    assert other[0, 0] == 20 * LATENTS and second[0, 0] == 3 * LATENTS
    token_rows = [data[i]["input_ids"] for i in range(4, len(data))]
    assert sorted(row[0] // LATENTS for row in token_rows) == [*range(6, 20), *range(26, 40)]


def test_a_trainer_learns_in_both_phases_and_continues_in_either(tmp_path):
    whole = trainer(tmp_path)
    whole.train()
    expected = losses(whole)
    assert [size for size, _ in expected] == [BAG] * 4 + [1] * 4
    assert expected[0][1] == pytest.approx(log(VOCABULARY), rel=0.05)
    assert expected[3][1] < expected[0][1] and expected[7][1] < expected[4][1]
    # FLOPs follow latents: every step has the same.
    assert whole.state.total_flos / 8 == whole.floating_point_ops({"input_ids": torch.zeros(4, LATENTS)})
    for step in (2, 4, 6):
        again = trainer(tmp_path)
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert losses(again) == expected


def test_the_loss_and_the_gradient_do_not_depend_on_accumulation_or_workers(tmp_path):
    found = []
    for batch, accumulated, workers in ((4, 1, 0), (2, 2, 1), (1, 4, 0)):
        model = trainer(
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            dataloader_num_workers=workers,
            save_strategy="no",
        )
        model.train()
        found.append([loss for _, loss in losses(model)])
    assert found[1] == pytest.approx(found[0], rel=1e-4) and found[2] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": -1}, "args.max_steps: -1 is not valid; give the steps of both phases"),
        ({"max_steps": 90}, "args.max_steps: 90 is not valid; 200 rows last for 38 steps of 4 sequences"),
        ({"bag_steps": 0}, "bag_steps: 0 is not valid"),
        (
            {"rows": ROWS[:30]},
            "train_dataset: 30 rows are not enough for 4 steps of bags of 4; there must be 68",
        ),
        (
            {"rows": [{"input_ids": list(range(16))}] * 200},
            "train_dataset: rows of 16 tokens are not valid; the model has positions for 8 latents",
        ),
    ],
)
def test_bad_arguments_are_refused_with_what_would_do(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        trainer(tmp_path, **arguments)


def test_a_row_of_another_length_is_refused_by_its_place():
    data = BagRows([*ROWS[:20], {"input_ids": [1]}, *ROWS], bag_size=2, bag_steps=12, sequences_per_step=1)
    with pytest.raises(ValueError, match="rows 20 to 22 are not valid; every row must have 8 tokens"):
        data[10]
