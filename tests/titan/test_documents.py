"""Attention inside documents, against a naive float64 reference, and a stage that trains with it."""

import math

import pytest
import torch

from tests.stages import SHAPES, Tree, losses, train
from tst_titan.models.family import ModelConfig
from tst_titan.titan import cpu

cpu.prepare()

from tst_titan.titan.documents import DocumentAttention, positions_in_documents  # noqa: E402
from tst_titan.titan.models import build_model_spec  # noqa: E402

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
