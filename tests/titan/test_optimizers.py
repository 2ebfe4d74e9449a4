"""Optimizers by group: who gets what, that states cross the switch and a crash, and what is refused."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from tests.stages import DENSE, MOE, Tree, final_tensors, train
from tests.titan.test_training import _kill_after_step, assert_bit_identical
from tst_titan.config.schema import OptimizerConfig
from tst_titan.errors import UserError
from tst_titan.models.family import ModelConfig
from tst_titan.titan import cpu
from tst_titan.tree.folder import StageFolder

cpu.prepare()

from torchtitan.components.optimizer import OptimizersContainer  # noqa: E402

from tst_titan.titan.models import build_model_spec  # noqa: E402
from tst_titan.titan.optimizers import Muon, optimizer_config  # noqa: E402

pytestmark = pytest.mark.slow

NO_DECAY = {"no_decay": ["norms", "biases", "embeddings"]}
KINDS: dict[str, tuple[dict, dict]] = {
    "adamw": (DENSE, {**NO_DECAY, "groups": [{"match": "head", "learning_rate_times": 0.5, "beta1": 0.8}]}),
    "muon": (MOE, {**NO_DECAY, "muon": {"learning_rate_times": 2.0, "momentum": 0.9}}),
}
# Builds the trainer of a stage, loads what it starts from, and writes the optimizer's state instead of training.
STATE_AT_THE_START = """
import os, sys, torch
from tst_titan.titan import train, cpu
cpu.prepare()
from tst_titan.titan.trainer import StageTrainer
def dump(self, data_iterable):
    state = self.optimizers.state_dict()
    torch.save({key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in state.items()},
               sys.argv[2])
    os._exit(0)
StageTrainer.batch_generator = dump
train.main([sys.argv[1]])
"""


# Both kinds of Muon on one process: torchtitan's asks for CUDA, and on one rank makes no use of it.
DIST_MUON = """
import torch, torch.distributed as dist
from tst_titan.titan import cpu
cpu.prepare()
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torchtitan.distributed.flex_shard import dist_muon
from tst_titan.titan.optimizers import Muon, dist_muon_layouts
dist.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("fsdp",))
dist_muon.DistMuon._validate_parameter_storage = lambda self: torch.device("cpu")
torch.manual_seed(0)
shapes = {"layers.0.wq": (8, 5), "layers.0.w1": (5, 8), "layers.0.experts": (3, 8, 5)}
start = {name: torch.randn(shape) for name, shape in shapes.items()}
def group():
    params = [torch.nn.Parameter(distribute_tensor(each.clone(), mesh, [Shard(0)])) for each in start.values()]
    return {"params": params, "param_names": list(shapes), "lr": 0.1, "adjust_lr_fn": "match_rms_adamw"}
ours, theirs = group(), group()
optimizers = [Muon([ours]), dist_muon.build_dist_muon(
    [theirs], **dist_muon_layouts({name: torch.Size(shape) for name, shape in shapes.items()}))]
for _ in range(3):
    for a, b in zip(ours["params"], theirs["params"]):
        a.grad = distribute_tensor(torch.randn(a.shape), mesh, [Shard(0)])
        b.grad = a.grad.clone()
    for optimizer in optimizers:
        optimizer.step()
for a, b, before in zip(ours["params"], theirs["params"], start.values()):
    torch.testing.assert_close(a.full_tensor(), b.full_tensor(), rtol=0, atol=2e-3)
    assert (a.full_tensor() - before).abs().max() > 0.05
"""


def optimizers_of(model: dict, **options) -> OptimizersContainer:
    """The optimizers of a small model that is not sharded."""
    shape = ModelConfig.model_validate(model)
    config = build_model_spec(shape, expert_precision="float32").model
    asked = OptimizerConfig.model_validate({"learning_rate": 0.01, **options})
    return optimizer_config(asked, config, "stage.yaml").build(model_parts=[config.build()])


def settings_by_name(optimizers: OptimizersContainer) -> dict:
    """Optimizer and settings of every parameter."""
    return {
        name: (type(optimizer).__name__, group)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for name in group["param_names"]
    }


@pytest.mark.parametrize("model", [DENSE, MOE], ids=["dense", "moe"])
def test_norms_biases_and_embeddings_do_not_decay_and_the_head_has_its_own_rate(model):
    groups = [
        {"match": "head", "learning_rate_times": 0.5},
        {"match": r"layers\.1\..*wo", "weight_decay": 0.3},
    ]
    found = settings_by_name(optimizers_of(model, **NO_DECAY, groups=groups))
    for name, (kind, group) in found.items():
        assert kind == "AdamW"
        still = "norm" in name or name.startswith("tok_embeddings")
        decay = 0.3 if name == "layers.1.attention.wo.weight" else 0.0 if still else 0.1
        assert (name, group["weight_decay"]) == (name, decay)
        assert group["lr"] == (0.005 if name == "lm_head.weight" else 0.01)


def test_a_group_without_a_decay_of_its_own_keeps_no_decay():
    found = settings_by_name(optimizers_of(DENSE, **NO_DECAY, groups=[{"match": "norm|w1", "beta2": 0.9}]))
    norm, w1 = (found[name][1] for name in ("norm.weight", "layers.0.feed_forward.w1.weight"))
    assert (norm["betas"], norm["weight_decay"]) == ((0.9, 0.9), 0.0)
    assert (w1["betas"], w1["weight_decay"]) == ((0.9, 0.9), 0.1)


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest():
    found = settings_by_name(
        optimizers_of(MOE, muon={"learning_rate_times": 2.0}, groups=[{"match": "router"}])
    )
    for name, (kind, group) in found.items():
        matrix = name.startswith("layers.") and "norm" not in name and "router" not in name
        assert (name, kind) == (name, "Muon" if matrix else "AdamW")
        assert group["lr"] == (0.02 if matrix else 0.01)
    assert sum("EFD" in name or "EDF" in name for name, (kind, _) in found.items() if kind == "Muon") == 6


def test_muon_of_a_stack_is_torchs_muon_of_each_matrix():
    torch.manual_seed(0)
    stack = torch.nn.Parameter(torch.randn(3, 8, 5))
    slices = [torch.nn.Parameter(each.clone()) for each in stack.detach()]
    ours, theirs = (kind(params, lr=0.1, adjust_lr_fn="match_rms_adamw")
                    for kind, params in ((Muon, [{"params": [stack]}]), (torch.optim.Muon, slices)))  # fmt: skip
    for _ in range(3):
        stack.grad = torch.randn(3, 8, 5)
        for each, gradient in zip(slices, stack.grad, strict=True):
            each.grad = gradient.clone()
        ours.step()
        theirs.step()
    assert torch.equal(stack, torch.stack([*slices]))


def test_torchtitans_muon_takes_our_layouts_and_makes_the_same_update():
    done = subprocess.run([sys.executable, "-c", DIST_MUON], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_muons_update_is_a_rotation_scaled_to_adamws_size():
    """Against the polar factor in float64: five Newton-Schulz steps bring singular values into [0.6, 1.3]."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(16, 32))
    weight.grad = torch.randn(16, 32)
    Muon([weight], lr=1.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
    left, _, right = torch.linalg.svd(weight.grad.double(), full_matrices=False)
    update = -weight.detach().double() / (0.2 * 32**0.5)
    inside = left.T @ update @ right.T
    assert (inside - inside.diag().diag()).abs().max() < 0.05
    assert inside.diag().min() > 0.6 and inside.diag().max() < 1.3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"no_decay": ["norms", "atention_norm"]},
            "optimizer.no_decay.1: found 'atention_norm', which matches no",
        ),
        (
            {"groups": [{"match": r"feed_forward\.w4"}]},
            "optimizer.groups.0.match: found 'feed_forward\\\\.w4'",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names(options, says):
    with pytest.raises(UserError) as error:
        optimizers_of(DENSE, **options)
    assert says in str(error.value)
    nearest = "layers.0.attention_norm.weight" if "atention" in says else "layers.0.feed_forward.w"
    assert nearest in str(error.value).split("the nearest are: ")[1].split(",")[0]


@pytest.fixture(scope="module", params=KINDS)
def chain(request, tmp_path_factory):
    """A bag stage and a token stage of each kind of optimizer, and the options of both."""
    model, options = KINDS[request.param]
    tree = Tree.make(tmp_path_factory.mktemp("results"), model=model)
    given = {"optimizer": {"learning_rate": 0.01, **options}}
    bag, token = tree.stage("bag4-6", **given), tree.stage("bag4-6/token-10", **given)
    train(bag)
    train(token)
    return tree, given, bag, token


def test_every_state_crosses_the_switch_as_it_is(chain, tmp_path):
    tree, given, bag, _ = chain
    child = tree.stage("bag4-6/token-9", **given)
    out = tmp_path / "state.pt"
    command = [sys.executable, "-c", STATE_AT_THE_START, str(child.path), str(out)]
    subprocess.run(command, check=True, capture_output=True)
    found = {key: value for key, value in torch.load(out).items() if isinstance(value, torch.Tensor)}
    expected = {key.removeprefix("optimizer."): value for key, value in final_tensors(bag).items()
                if key.startswith("optimizer.")}  # fmt: skip
    kinds = {key.rsplit(".", 1)[1] for key in found}
    assert {"exp_avg", "exp_avg_sq", "step"} <= kinds
    assert ("momentum_buffer" in kinds) == ("muon" in given["optimizer"])
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert all(value.any() for value in found.values())


def test_killed_after_the_switch_ends_bit_identical(chain, tmp_path):
    tree, *_, whole = chain
    shutil.copytree(tree.results, tmp_path / "again")
    again = StageFolder.at(tmp_path / "again" / whole.path.relative_to(tree.results))
    shutil.rmtree(again.path / "checkpoint")
    again.manifest_path.unlink()
    again.metrics_path.unlink()
    _kill_after_step(again, 9)
    assert "resumes from its checkpoint of step 8" in train(again).stderr
    assert_bit_identical([again], [whole])


def test_a_pattern_that_matches_nothing_ends_a_job_with_a_sentence(tmp_path):
    folder = Tree.make(tmp_path).stage("token-4", optimizer={"learning_rate": 0.01, "no_decay": ["nrom"]})
    done = train(folder, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{folder.path}/stage.yaml: key optimizer.no_decay.0: found 'nrom'" in done.stderr


def test_the_logged_learning_rate_is_that_of_the_schedule(chain):
    bag = chain[2]
    lines = map(json.loads, bag.metrics_path.read_text().splitlines())
    assert [line["lr"] for line in lines] == [0.005, *[0.01] * 5]
