"""Attention and bags inside documents, against naive float64 references, and stages that train with them."""

import itertools
import math

import pytest
import torch

from tests.stages import DENSE, SHAPES, Tree, losses, train
from tests.titan.test_training import _kill_after_step
from tst_titan.config.schema import StageConfig
from tst_titan.models.family import ModelConfig
from tst_titan.titan import cpu

cpu.prepare()

from torchtitan.models.common import Embedding  # noqa: E402

from tst_titan.superposition.documents import (  # noqa: E402
    FILLER,
    bags_inside_documents,
    positions_in_documents,
)
from tst_titan.titan.documents import DocumentAttention  # noqa: E402
from tst_titan.titan.loader import cut, open_lanes  # noqa: E402
from tst_titan.titan.models import build_model_spec  # noqa: E402
from tst_titan.titan.superposition import BagLoss, FilledBagEmbedding, _extended  # noqa: E402

EOS = 0


def windows() -> torch.Tensor:
    """Two windows of 16 tokens whose documents end at different places."""
    tokens = torch.randint(1, 64, (2, 16), generator=torch.Generator().manual_seed(0))
    tokens[0, [4, 5, 11]] = EOS
    tokens[1, 15] = EOS
    return tokens


def test_positions_begin_anew_behind_every_end_of_text():
    expected = [[0, 1, 2, 3, 4, 0, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3], list(range(16))]
    assert positions_in_documents(windows(), EOS).tolist() == expected


def masks_of(model, positions):
    return model.get_attention_masks(positions=positions)


def model_of(shape: dict):
    """A decoder with document attention, in float64."""
    config = build_model_spec(ModelConfig.model_validate(shape), expert_precision="float32").model
    for layer in config.layers:
        layer.attention.inner_attention = DocumentAttention.Config()
    model = config.build()
    torch.manual_seed(0)
    model.init_states(buffer_device=torch.device("cpu"))
    return model


def test_attention_is_softmax_over_the_own_documents_past():
    tokens = windows()
    model = model_of(SHAPES["llama3"])
    positions = positions_in_documents(tokens, EOS)
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(2, 16, 3, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    )
    attention = DocumentAttention.Config().build()
    out = attention(q, k, v, attention_masks=masks_of(model, positions))
    expected = torch.zeros_like(out)
    for b in range(2):
        starts = [0, *(i + 1 for i in range(15) if tokens[b, i] == EOS)]
        for i in range(16):
            first = max(start for start in starts if start <= i)
            for n in range(3):
                scores = k[b, first : i + 1, n] @ q[b, i, n] / math.sqrt(8)
                expected[b, i, n] = scores.softmax(0) @ v[b, first : i + 1, n]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad((out * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-12)


def test_without_a_mask_attention_is_over_the_whole_window():
    q, k, v = torch.randn(3, 2, 16, 3, 8, dtype=torch.float64).unbind(0)
    scores = torch.einsum("bink,bjnk->bnij", q, k) / math.sqrt(8)
    scores = scores.masked_fill(torch.ones(16, 16).triu(1).bool(), -math.inf)
    expected = torch.einsum("bnij,bjnk->bink", scores.softmax(-1), v)
    torch.testing.assert_close(DocumentAttention.Config().build()(q, k, v), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_document_in_a_window_is_the_document_alone(shape):
    """Logits of each document of a window equal those of the document by itself: no other is seen."""
    model = model_of(SHAPES[shape])
    tokens = windows()
    positions = positions_in_documents(tokens, EOS)
    with torch.no_grad():
        whole = model(tokens, positions=positions, attention_masks=masks_of(model, positions))
        blurred = model(tokens)
        for start, end in ((0, 5), (5, 6), (6, 12), (12, 16)):
            alone = tokens[:1, start:end]
            places = torch.arange(end - start)[None]
            logits = model(alone, positions=places, attention_masks=masks_of(model, places))
            torch.testing.assert_close(whole[:1, start:end], logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(whole[0, :5], blurred[0, :5], rtol=1e-4, atol=1e-4)
    assert (whole[0, 6:] - blurred[0, 6:]).abs().max() > 1e-3


@pytest.mark.slow
def test_a_token_stage_masks_after_bags_that_do_not(tmp_path):
    tree = Tree.make(tmp_path)
    mask = {"documents": {"mask_attention": True}}
    bag = tree.stage("bag4-4")
    train(bag)
    plain = tree.stage("bag4-4/token-8")
    train(plain)
    unmasked = losses(plain)
    two = Tree.make(tmp_path).with_runtime(processes_per_node=2)
    masked = tree.stage("bag4-4/token-8", **mask)
    train(masked)
    found = losses(masked)
    assert found[8] != unmasked[8] and found[8] < found[5] + 0.5
    one = masked.manifest()
    again = two.stage("bag4-4/token-8", **mask)
    again.manifest_path.unlink()
    (again.path / "checkpoint").rename(again.path / "old")
    train(again)
    assert losses(again) == pytest.approx(found, rel=1e-5)
    assert {key: again.manifest()[key] for key in ("latents", "data_tokens", "position")} == {
        key: one[key] for key in ("latents", "data_tokens", "position")
    }


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float8", "mxfp8"])
def test_a_precision_without_its_library_is_refused_before_any_process_group(tmp_path, precision):
    folder = Tree.make(tmp_path).stage("token-4", precision=precision)
    done = train(folder, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        f"{folder.path}/stage.yaml: key precision: found '{precision}': torchao is not installed"
        in done.stderr
    )
    assert "What works here: float32, bfloat16" in done.stderr
    assert "device mesh" not in (folder.path / "logs/rank0.log").read_text()


def naive_bags(window: list[int], bags: int, size: int) -> list[list[int]]:
    """Documents of a window, cut one by one, without filler."""
    found, document = [], []
    for token in window:
        document.append(token)
        if token == EOS:
            found += [document[i : i + size] for i in range(0, len(document), size)]
            document = []
    found += [document[i : i + size] for i in range(0, len(document), size)]
    return found[:bags]


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_bags_inside_documents_are_those_of_every_document_alone(size, share):
    generator = torch.Generator().manual_seed(size)
    tokens = torch.randint(1, 64, (6, size * 9), generator=generator)
    tokens[torch.rand(tokens.shape, generator=generator) < share] = EOS
    found = bags_inside_documents(tokens, 9, size, EOS)
    assert found.shape == (6, 9, size)
    for window, bags in zip(tokens.tolist(), found.tolist(), strict=True):
        expected = naive_bags(window, 9, size)
        assert bags == [bag + [FILLER] * (size - len(bag)) for bag in expected] and all(expected)
    if not share:
        assert found.equal(tokens.unflatten(1, (9, size)))


@pytest.mark.parametrize("sides", ["full", "input_only"])
def test_filler_is_neither_averaged_nor_counted(sides):
    """Embedding, loss and both gradients against loops in float64 over the tokens that are there."""
    vocab, width, size, latents = 13, 5, 4, 6
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1, vocab, (3, size * (latents + 1)), generator=generator)
    tokens[0, [2, 9, 10]] = tokens[1, [0, 13]] = EOS
    stage = bag_stage(latents, size, sides)
    inputs, labels = cut(stage, tokens[:, : size * latents + (size if sides == "full" else 1)], EOS)
    stock = Embedding.Config(num_embeddings=vocab, embedding_dim=width)
    embedding = _extended(stock, FilledBagEmbedding).build().double()
    table, head = (torch.randn(vocab, width, generator=generator, dtype=torch.float64) for _ in range(2))
    embedding.weight.data = table.clone()
    weight = head.clone().requires_grad_()
    loss = BagLoss.Config(bag_size=size, vocab_size=vocab, weights=(1.0,) * size).build()
    valid = (labels != FILLER).sum()
    ours, _ = loss(embedding(inputs) @ weight.T, labels, valid)
    ours.backward()

    table.requires_grad_(), head.requires_grad_()
    terms = []
    for window in tokens.tolist():
        bags = naive_bags(window, latents + 1, size)
        for bag, following in itertools.pairwise(bags):
            logits = head @ torch.stack([table[token] for token in bag]).mean(0)
            targets = following if sides == "full" else following[:1]
            terms += [logits.logsumexp(0) - logits[token] for token in targets]
    assert len(terms) == int(valid)
    theirs = torch.stack(terms).mean()
    theirs.backward()
    # torchtitan's own cross-entropy is in float32.
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(embedding.weight.grad, table.grad, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight.grad, head.grad, rtol=1e-5, atol=1e-6)


def bag_stage(latents: int, size: int, sides: str = "full") -> StageConfig:
    return StageConfig.model_validate(
        {
            "phase": "bag",
            "start_step": 0,
            "end_step": 1,
            "seed": 0,
            "precision": "float32",
            "model": DENSE,
            "data": {"corpus": "tiny", "sequence_length": latents, "batch_sequences": 3},
            "superposition": {"bag_size": size, "sides": sides},
            "optimizer": {"learning_rate": 0.01},
            "schedule": {"warmup_steps": 0},
            "documents": {"bags_inside": True},
        }
    )


@pytest.mark.parametrize("content", [{"superposition": None, "phase": "token"}, {"sides": "output_only"}])
def test_bags_inside_need_bags_at_the_input(content):
    stage = bag_stage(8, 4).model_dump()
    if "sides" in content:
        stage["superposition"] = {"bag_size": 4, **content}
    else:
        stage |= content
    with pytest.raises(ValueError, match="bags_inside needs bags at the input: sides full or input_only"):
        StageConfig.model_validate(stage)


@pytest.mark.slow
def test_what_filled_bags_leave_out_is_counted_on_any_ranks_and_after_a_crash(tmp_path):
    inside = {"documents": {"bags_inside": True}}
    tree = Tree.make(tmp_path)
    bag = tree.stage("bag6-6", **inside)
    _kill_after_step(bag, 5)
    done = train(bag)
    stage, found = bag.stage, bag.manifest()
    lanes = open_lanes(bag.data_manifest, stage.data)
    left_out = 0
    for step in range(6):
        for window in lanes.read(
            step * stage.lane_advance, stage.lane_advance + stage.lane_lookahead
        ).tolist():
            left_out += stage.lane_advance - sum(map(len, naive_bags(window, 16, 6)))
    assert found["left_out_data_tokens"] == left_out > 0
    assert f"{left_out:,} of {found['data_tokens']:,} data tokens left out" in done.stderr
    assert (found["latents"], found["data_tokens"], found["position"]) == (6 * 64, 6 * 64 * 6, 6 * 96)
    assert bag.heldout.read()[-1]["bag_loss"] == pytest.approx(losses(bag)[6], abs=0.3)
    token = tree.stage("bag6-6/token-8")
    train(token)
    assert token.manifest()["left_out_data_tokens"] == left_out
    two = Tree.make(tmp_path, recipe="two").with_runtime(processes_per_node=2).stage("bag6-6", **inside)
    train(two)
    assert two.manifest()["left_out_data_tokens"] == left_out
    assert losses(two) == pytest.approx(losses(bag), rel=1e-5)
    tensor = Tree.make(tmp_path, recipe="tensor").with_runtime(processes_per_node=2, parallel={"tensor": 2})
    sharded = tensor.stage("bag6-6", **inside)
    train(sharded)
    assert sharded.manifest()["left_out_data_tokens"] == left_out
    assert losses(sharded) == pytest.approx(losses(bag), rel=1e-5)
