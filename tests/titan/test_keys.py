"""Keys of torchtitan's config from YAML: set, typed, refused, and whose they are."""

import dataclasses
import json

import pytest

from tests.stages import Tree, losses, train
from tst_titan.config.schema import RecipeOptions, RuntimeConfig, StageConfig
from tst_titan.config.titan_keys import OWNED, changes_result
from tst_titan.errors import UserError
from tst_titan.titan import cpu

cpu.prepare()

from torchtitan.config.configs import CompileConfig  # noqa: E402
from torchtitan.trainer import Trainer  # noqa: E402

from tst_titan.titan.job import activation_checkpoint  # noqa: E402
from tst_titan.titan.keys import _known, with_keys  # noqa: E402
from tst_titan.titan.metrics import StageMetrics  # noqa: E402

WHERE = "scales/s.yaml"


def set_keys(**keys):
    config = Trainer.Config(
        activation_checkpoint=activation_checkpoint("selective"), compile=CompileConfig(enable=True)
    )
    return with_keys(config, RecipeOptions.model_validate({"titan": keys}).titan, WHERE)


def test_dotted_and_nested_keys_are_set_and_the_rest_stays():
    found = set_keys(**{"training.gc_freq": 7, "profiler": {"enable_profiling": True, "profile_freq": 3}})
    assert (found.training.gc_freq, found.profiler.enable_profiling, found.profiler.profile_freq) == (
        7,
        True,
        3,
    )
    assert dataclasses.replace(
        found, training=Trainer.Config().training, profiler=Trainer.Config().profiler
    ) == (set_keys())
    assert Trainer.Config().training.gc_freq == 50


def test_keys_that_need_each_other_are_set_together():
    found = set_keys(compile={"enable_async_tensor_parallel": True, "components": ["model"]})
    assert found.compile.enable_async_tensor_parallel
    with pytest.raises(
        UserError, match=r"refuses titan.compile.enable_async_tensor_parallel: True.*Async TP requires"
    ):
        set_keys(compile={"enable_async_tensor_parallel": True, "components": ["loss"]})


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (
            {"training.gc_frq": 1},
            r"unknown key titan.training.gc_frq \(did you mean 'training.gc_freq'\?\); tor",
        ),
        ({"trainin": {"gc_freq": 1}}, r"unknown key titan.trainin.gc_freq \(did you mean 'training.gc_freq'"),
        (
            {"training.gc_freq": 1.5},
            r"key titan.training.gc_freq: found 1.5: Input should be a valid integer",
        ),
        (
            {"training.gc_freq": True},
            r"key titan.training.gc_freq: found True: Input should be a valid integer",
        ),
        ({"training.dtype": "fp8"}, r"found 'fp8': Input should be 'bfloat16' or 'float32'"),
        (
            {"compile.components": "model"},
            r"key titan.compile.components: found 'model': Input should be a valid li",
        ),
        ({"training": 3}, r"key titan.training: found 3; it holds keys: .*training.gc_freq"),
        (
            {"activation_checkpoint.memory_budget": 0.5},
            r"unknown key titan.activation_checkpoint.memory_budget",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named(keys, says):
    with pytest.raises(UserError, match=f"^{WHERE}: .*{says}"):
        set_keys(**keys)


@pytest.mark.parametrize("key", OWNED)
def test_a_key_that_the_pipeline_owns_is_refused_with_its_place(key):
    """Every one of them is torchtitan's: a release that renames one shows here."""
    at = Trainer.Config(activation_checkpoint=activation_checkpoint("full"))
    for part in key.split("."):
        at = getattr(at, part)
    for given in (key, f"{key}.below"):
        with pytest.raises(ValueError, match=f"key {given} .found 1. is the pipeline's; it is set by "):
            RecipeOptions.model_validate({"titan": {given: 1}})


def test_keys_of_this_projects_subclasses_are_not_torchtitans():
    names = set(_known(Trainer.Config(metrics=StageMetrics.Config())))
    assert "metrics.enable_tensorboard" in names and "metrics.path" not in names


def test_every_known_key_is_classified_and_most_that_change_a_result_are_the_pipelines():
    changing = {key for key in _known(Trainer.Config()) if changes_result(key)}
    assert changing == {
        "debug.moe_force_load_balance",
        "override.imports",
        "training.dtype",
        "training.mixed_precision_reduce",
    }


def test_stage_and_runtime_hold_a_key_without_being_changed_by_its_default():
    assert "titan" not in StageConfig.model_fields["titan"].default
    assert RuntimeConfig().titan == {}


@pytest.mark.slow
def test_a_stage_trains_with_them_and_what_changes_no_result_changes_none(tmp_path):
    tree = Tree.make(tmp_path)
    plain = tree.stage("token-3")
    train(plain)
    how = Tree.make(tmp_path, recipe="how").with_runtime(
        titan={"training.gc_freq": 1, "metrics.enable_tensorboard": True, "debug.detect_anomaly": True}
    )
    with_keys_of_runtime = how.stage("token-3")
    train(with_keys_of_runtime)
    assert losses(with_keys_of_runtime) == losses(plain)
    assert with_keys_of_runtime.manifest()["stage_sha256"] == plain.manifest()["stage_sha256"]
    assert list((with_keys_of_runtime.path / "logs").rglob("events.out.*"))
    what = tree.stage("token-3", titan={"training.dtype": "bfloat16"})
    assert what.stage_sha256 != plain.manifest()["stage_sha256"]
    before = losses(plain)
    train(what)
    assert losses(what) != before
    wrong = tree.stage("token-4", titan={"training.dtype": "int8"})
    done = train(wrong, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{wrong.path}/stage.yaml: key titan.training.dtype: found 'int8'" in done.stderr
    assert json.loads((plain.path / "manifest.json").read_text())
