"""Windows of a lane against the formulas, positions, and ranks that share a batch."""

import numpy as np
import pytest
import torch

from tests.corpus import write_corpus
from tests.stages import DENSE
from tst_titan.config.schema import StageConfig
from tst_titan.data.shards import TokenStream
from tst_titan.titan import cpu

cpu.prepare()

from tst_titan.titan.loader import LaneLoader  # noqa: E402

LENGTH, BATCH = 8, 4


def stage(superposition=None) -> StageConfig:
    return StageConfig.model_validate(
        {
            "phase": "bag" if superposition else "token",
            "start_step": 0,
            "end_step": 10,
            "seed": 0,
            "precision": "float32",
            "model": DENSE,
            "data": {"corpus": "tiny", "sequence_length": LENGTH, "batch_sequences": BATCH},
            "superposition": superposition,
            "optimizer": {"learning_rate": 0.01},
            "schedule": {"warmup_steps": 0},
        }
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "tiny", tokens=4_000)


def loader(manifest, config, rank=0, ranks=1, micro=None) -> LaneLoader:
    lanes = (micro or BATCH // ranks) * config.sequences_per_lane
    return LaneLoader(
        LaneLoader.Config(stage=config, manifest=str(manifest)),
        dp_world_size=ranks,
        dp_rank=rank,
        local_batch_size=lanes,
        seq_len=config.latents_per_sequence,
        tokenizer=None,
        snapshot_every_n_steps=1,
    )


def take(batches, count):
    iterator = iter(batches)
    found = [next(iterator) for _ in range(count)]
    return [inputs["input"] for inputs, _ in found], [labels for _, labels in found]


def lane(manifest, index: int) -> np.ndarray:
    stream = TokenStream.from_manifest(manifest)
    length = len(stream) // BATCH
    return stream.read(index * length, length)


@pytest.mark.parametrize("bag_size", [1, 2, 5])
def test_full_bags_follow_the_formula(manifest, bag_size):
    inputs, labels = take(loader(manifest, stage({"bag_size": bag_size})), 3)
    for step in range(3):
        for b in range(BATCH):
            tokens = lane(manifest, b)[step * bag_size * LENGTH :]
            for j in range(LENGTH):
                for k in range(bag_size):
                    assert inputs[step][b, j, k] == tokens[j * bag_size + k]
                    assert labels[step][b, j, k] == tokens[(j + 1) * bag_size + k]


def test_one_token_bags_are_next_token_training(manifest):
    bags, bag_labels = take(loader(manifest, stage({"bag_size": 1})), 2)
    tokens, labels = take(loader(manifest, stage()), 2)
    assert all(torch.equal(a[..., 0], b) for a, b in zip(bags + bag_labels, tokens + labels, strict=True))


@pytest.mark.parametrize("sides", ["input_only", "output_only"])
def test_one_sided_bags(manifest, sides):
    config = stage({"bag_size": 3, "sides": sides})
    inputs, labels = take(loader(manifest, config), 2)
    tokens = lane(manifest, 1)[config.lane_advance :]
    if sides == "input_only":
        assert inputs[1][1].tolist() == tokens[: 3 * LENGTH].reshape(LENGTH, 3).tolist()
        assert labels[1][1].tolist() == tokens[3 : 3 * LENGTH + 1 : 3].tolist()
    else:
        assert inputs[1][1].tolist() == tokens[:LENGTH].tolist()
        assert labels[1][1].tolist() == [tokens[j + 1 : j + 4].tolist() for j in range(LENGTH)]


def test_more_sequences_read_the_same_tokens_in_shorter_latent_sequences(manifest):
    longer = stage({"bag_size": 4})
    more = stage({"bag_size": 4, "feeding": "more_sequences"})
    assert more.latents_per_sequence == LENGTH // 4 and more.lane_advance == longer.lane_advance
    inputs, labels = take(loader(manifest, more), 1)
    reference, reference_labels = take(loader(manifest, longer), 1)
    assert inputs[0].shape == (BATCH * 4, LENGTH // 4, 4)
    assert torch.equal(inputs[0].reshape(BATCH, LENGTH, 4), reference[0])
    assert torch.equal(labels[0].reshape(BATCH, LENGTH, 4), reference_labels[0])


@pytest.mark.parametrize(
    "superposition", [None, {"bag_size": 3}, {"bag_size": 4, "feeding": "more_sequences"}]
)
def test_ranks_and_micro_batches_share_one_batch(manifest, superposition):
    config = stage(superposition)
    whole, whole_labels = take(loader(manifest, config), 3)
    first, first_labels = take(loader(manifest, config, rank=0, ranks=2), 3)
    second, second_labels = take(loader(manifest, config, rank=1, ranks=2), 3)
    micro, _ = take(loader(manifest, config, micro=1), 3 * BATCH)
    for step in range(3):
        assert torch.equal(whole[step], torch.cat([first[step], second[step]]))
        assert torch.equal(whole_labels[step], torch.cat([first_labels[step], second_labels[step]]))
        assert torch.equal(whole[step], torch.cat(micro[step * BATCH : (step + 1) * BATCH]))


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_continues_at_any_position_on_any_number_of_ranks(manifest, steps):
    before = loader(manifest, stage({"bag_size": 3}))
    take(before, steps)
    position = before.state_dict()
    assert position == {"position": steps * 3 * LENGTH}
    whole, _ = take(before, 1)
    resumed = [loader(manifest, stage({"bag_size": 3}), rank=rank, ranks=2) for rank in range(2)]
    for part in resumed:
        part.load_state_dict(position)
    parts = [take(part, 1)[0][0] for part in resumed]
    assert torch.equal(whole[0], torch.cat(parts))


def test_the_token_phase_reads_on_where_the_bag_phase_stopped(manifest):
    bags = loader(manifest, stage({"bag_size": 4}))
    take(bags, 2)
    tokens = loader(manifest, stage())
    tokens.load_state_dict(bags.state_dict())
    inputs, _ = take(tokens, 1)
    assert inputs[0][2].tolist() == lane(manifest, 2)[8 * LENGTH : 9 * LENGTH].tolist()
