"""superpose() on torchtitan's own recipes: every decoder's debug model, resuming, the pipeline's numbers, refusals."""

import json
import re
import shutil
from dataclasses import replace
from math import isfinite, log
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stages import Tree
from tests.stages import losses as stage_losses
from tests.titan.test_golden import one_process
from tst_titan.errors import UserError
from tst_titan.titan import cpu

cpu.prepare()

from torchtitan.components.loss import MSELoss  # noqa: E402
from torchtitan.components.metrics import MetricsProcessor  # noqa: E402
from torchtitan.hf_datasets.text_datasets import ChatDataLoader, HuggingFaceTextDataLoader  # noqa: E402
from torchtitan.trainer import Trainer  # noqa: E402

from tst_titan.recipes import recipe  # noqa: E402
from tst_titan.titan.job import Job  # noqa: E402
from tst_titan.titan.loader import open_lanes  # noqa: E402
from tst_titan.titan.superposition import Superposition, superpose, with_flags  # noqa: E402

BAG = 3
LATENTS, SEQUENCES, STEPS = 8, 4, 5  # of each phase
BFLOAT16 = {"mixed_precision_param": "bfloat16"}
# torchtitan's debug models of all families that can be imported here, and what they need on a CPU.
DECODERS: dict[str, dict[str, Any]] = {
    "llama3.llama3_debugmodel": {},
    "qwen3.qwen3_debugmodel": {},
    "qwen3.qwen3_moe_debug": {},
    "deepseek_v3.deepseek_v3_debugmodel": {},
    "deepseek_v3.deepseek_v3_debugmodel_mtp": {},
    # Its experts multiply in bfloat16 and scatter into the model's own precision.
    "gpt_oss.gpt_oss_debugmodel": BFLOAT16,
    "muse_glimmer.muse_glimmer_debugmodel": {},
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with words as text, and one with a tokenizer of a word an id."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("text")
    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    write_text(folder / "data", [[(7 * i) % 61 + 1 for i in range(j, j + 500)] for j in range(8)])
    return folder


def write_text(folder: Path, documents: list[list[int]]) -> None:
    folder.mkdir()
    lines = (json.dumps({"text": " ".join(f"w{i}" for i in ids)}) + "\n" for ids in documents)
    (folder / "train.jsonl").write_text("".join(lines))


@pytest.fixture(scope="module")
def process():
    with one_process():
        yield


def small(name: str, text: Path, out: Path, **training: Any) -> Any:
    """torchtitan's recipe on one CPU: two layers, short sequences, our text."""
    config = recipe(*name.rsplit(".", 1))
    # The first two are one of each kind: DeepSeek's first is dense, and gpt-oss' attention takes turns.
    del config.model_spec.model.layers[2:]
    given = {"local_batch_size": SEQUENCES, "seq_len": LATENTS, "steps": 2 * STEPS} | training
    config.training = replace(config.training, **given)
    config.lr_scheduler = replace(config.lr_scheduler, warmup_steps=2, decay_ratio=0.0)
    config.hf_assets_path, config.dump_folder = str(text / "tokenizer"), str(out)
    config.dataloader.dataset_path = str(text / "data")
    config.metrics.log_freq, config.metrics.disable_color_printing = 1, True
    config.debug = replace(config.debug, seed=0, deterministic=True)
    config.validator.enable = False
    return config


def train(config: Any) -> tuple[Any, list[float]]:
    """The trainer after its last step, and the losses."""
    trainer = config.build()
    losses: list[float] = []
    log_step = trainer.metrics_processor.log

    def kept(step: int, loss: float, *rest: Any, **extra: Any) -> None:
        losses.append(loss)
        log_step(step, loss, *rest, **extra)

    trainer.metrics_processor.log = kept
    trainer.train()
    trainer.close()
    return trainer, losses


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_learns_from_bags_then_tokens_and_sees_no_future(name, text, tmp_path, process):
    stock = small(name, text, tmp_path, **DECODERS[name])
    with torch.device("meta"):
        keys = stock.model_spec.model.build().state_dict().keys()
    trainer, losses = train(superpose(stock, Superposition(bag_size=BAG, steps=STEPS)))
    assert all(map(isfinite, losses)) and len(losses) == 2 * STEPS
    predictions = 1.3 if "mtp" in name else 1.0  # torchtitan adds 0.3 of the loss of its second prediction
    # torchtitan's own initialisation of the head spreads logits: a little above ln V
    assert 0.95 < losses[0] / log(stock.model_spec.model.vocab_size) / predictions < 1.15
    assert losses[STEPS - 1] < losses[0] and losses[-1] < losses[STEPS]
    model = trainer.model_parts[0]
    assert model.state_dict().keys() == keys
    with trainer.train_context():
        assert_causal(model.eval(), torch.bfloat16 if DECODERS[name] else torch.float32)


@torch.no_grad()
def assert_causal(model: torch.nn.Module, dtype: torch.dtype) -> None:
    model._skip_lm_head = False  # type: ignore[assignment]
    positions = torch.arange(LATENTS)[None]
    for shape in ((1, LATENTS), (1, LATENTS, BAG)):
        tokens = torch.arange(1, 1 + torch.Size(shape).numel()).view(shape)

        def logits(tokens):
            found = model(tokens, positions=positions)
            return (found if isinstance(found, list) else [found])[0][0].float()

        before = logits(tokens)
        changed = tokens.clone()
        changed[0, 5] = 60
        moved = (logits(changed) - before).abs().amax(1)
        rounding = 1e-4 if dtype == torch.float32 else 0.05
        assert moved[:5].max() < rounding < moved[5:].min() * 20, moved


def from_lanes(tree: Tree, steps: int, out: Path) -> Any:
    """torchtitan's Trainer with the recipe of a tree's stages, on the text of its lanes in the order of their steps."""
    stage = tree.stage(f"token-{steps}")
    ours = Job(stage, "unused", None, "test").trainer_config()
    data = stage.stage.data
    lanes, position, documents = open_lanes(stage.data_manifest, data), 0, []
    for step in range(1, steps + 1):
        bag = 4 if step <= steps // 2 else 1
        windows = lanes.read(position, bag * (data.sequence_length + 1), range(data.batch_sequences))
        documents += [[int(token) for token in window] for window in windows]
        position += bag * data.sequence_length
    write_text(out / "lanes", documents)
    kept = ("model_spec", "optimizer", "lr_scheduler", "loss", "training", "parallelism", "debug")
    return Trainer.Config(
        **{name: getattr(ours, name) for name in kept},
        activation_checkpoint=ours.activation_checkpoint,
        dataloader=HuggingFaceTextDataLoader.Config(dataset="c4_test", dataset_path=str(out / "lanes")),
        metrics=MetricsProcessor.Config(log_freq=1, disable_color_printing=True),
        dump_folder=str(out),
    )


@pytest.mark.slow
@pytest.mark.parametrize("loss_chunks", [1, 2])
def test_one_job_of_torchtitans_equals_the_two_stages_of_the_pipeline(loss_chunks, text, tmp_path, process):
    tree = Tree.make(tmp_path).with_runtime(loss_chunks=loss_chunks)
    bag = tree.stage("bag4-3")
    token = tree.stage("bag4-3/token-6")
    parent = {"checkpoint": "checkpoint/bag/step-3", "data_tokens": 0, "flops": 0.0}
    for job in (Job(bag, "bag", None, "test"), Job(token, "token", parent, "test")):
        trainer = job.trainer_config().build()
        trainer.train()
        trainer.close()
    expected = [*stage_losses(bag).values(), *stage_losses(token).values()]
    config = from_lanes(tree, 6, tmp_path)
    config.hf_assets_path = str(text / "tokenizer")
    _, found = train(superpose(config, Superposition(bag_size=4, steps=3)))
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_job_continues_in_either_phase_and_at_the_switch(workers, text, tmp_path, process):
    def config() -> Any:
        found = small("llama3.llama3_debugmodel", text, tmp_path)
        found.checkpoint = replace(found.checkpoint, enable=True, interval=1, keep_latest_k=0)
        found.dataloader.num_workers = workers
        return superpose(found, Superposition(bag_size=BAG, steps=STEPS))

    whole = train(config())[1]
    for last in (STEPS + 2, STEPS, STEPS - 2):
        for path in (tmp_path / "checkpoint").glob("step-*"):
            if int(path.name.removeprefix("step-")) > last:
                shutil.rmtree(path)
        trainer, resumed = train(config())
        assert resumed == whole[last:], last
    # What was read: every label of a bag, and speeds count latents.
    assert trainer.ntokens_seen == SEQUENCES * LATENTS * (BAG * STEPS + STEPS)


@pytest.mark.slow
def test_speed_and_mfu_count_latents_and_the_token_phase_is_the_recipes_own(text, tmp_path, process):
    counted: dict[int, list[int]] = {}
    windows: dict[int, list[Any]] = {}
    for steps in (2, 0):
        config = small("llama3.llama3_debugmodel", text, tmp_path, steps=4)
        superposed = superpose(config, Superposition(bag_size=BAG, steps=steps)) if steps else config
        trainer = superposed.build()
        batches = trainer.batch_generator(trainer.dataloader)
        counted[steps], windows[steps] = [], []
        for step in range(1, 5):
            if steps:
                trainer.dataloader.bag_size = BAG if step <= steps else 1
            windows[steps].append(next(batches))
            counted[steps].append(trainer.metrics_processor.ntokens_since_last_log)
        trainer.close()
    assert counted[2] == counted[0] == [SEQUENCES * LATENTS * step for step in range(1, 5)]
    # Bags: a window of BAG * (LATENTS + 1) tokens, the next one right after the bags that were read.
    (first, labels), (second, _) = windows[2][:2]
    assert first["input"].shape == labels.shape == (SEQUENCES, LATENTS, BAG)
    assert torch.equal(labels[:, :-1], first["input"][:, 1:])
    assert torch.equal(first["positions"], torch.arange(LATENTS).repeat(SEQUENCES, 1))
    assert not torch.equal(first["input"], second["input"])
    given, plain = windows[2][2]
    assert given.keys() == windows[0][0][0].keys() and plain.shape == (SEQUENCES, LATENTS)


def change(key: str, value: Any):
    def changed(config: Any) -> None:
        *path, last = key.split(".")
        for name in path:
            config = getattr(config, name)
        setattr(config, last, value)

    return changed


BAGS = Superposition(bag_size=BAG, steps=STEPS)
WRONG: Any = "both"


@pytest.mark.parametrize(
    ("given", "superposition", "message"),
    [
        (None, replace(BAGS, steps=11), "superposition.steps: found 11; valid are 0 to training.steps, 10"),
        (None, replace(BAGS, steps=0), "superposition.steps: found 0; with bag_size 3 say how many"),
        (None, replace(BAGS, bag_size=0), "superposition.bag_size: found 0"),
        (None, replace(BAGS, bag_size=1), "superposition.bag_size: found 1; 5 steps are to read bags"),
        (None, replace(BAGS, loss=WRONG), "loss: 'both' is not valid; it must be one of mce"),
        (None, replace(BAGS, weights="linear"), "weights: 'linear' is not valid"),
        (None, replace(BAGS, weights=(1.0, 2.0)), "weights has 2 numbers; a bag of 3 needs 3"),
        (None, replace(BAGS, sides=WRONG), "sides: 'both' is not valid"),
        (change("loss", MSELoss.Config()), BAGS, "loss: found MSELoss; valid are CrossEntropyLoss"),
        (
            change("model_spec.model.tok_embeddings", None),
            BAGS,
            "model_spec: found llama3 debugmodel; a bag needs",
        ),
        (change("parallelism.context_parallel_degree", 2), BAGS, "context_parallel_degree: found 2"),
        (change("parallelism.spmd_backend", "full_dtensor"), BAGS, "spmd_backend: found full_dtensor"),
        (
            change("dataloader", ChatDataLoader.Config(dataset_path="x", sample_processor=print)),
            BAGS,
            "dataloader: found ChatDataLoader; bags need running text",
        ),
    ],
)
def test_what_cannot_be_superposed_is_refused_before_any_process_group(
    given, superposition, message, text, tmp_path
):
    config = small("llama3.llama3_debugmodel", text, tmp_path)
    if given:
        given(config)
    with pytest.raises(UserError, match=re.escape(message)):
        superpose(config, superposition)
    with pytest.raises(SystemExit, match=re.escape(message)):
        with_flags(config, superposition).build()


def test_a_recipe_that_is_not_there_or_not_a_decoders_is_refused_by_name():
    with pytest.raises(SystemExit, match=r"llama3.llama3_9b: Config function 'llama3_9b' not found"):
        recipe("llama3", "llama3_9b")
    with pytest.raises(SystemExit, match=r"found a FluxModel.Config; a bag needs a decoder"):
        recipe("flux", "flux_debugmodel")
