"""Real stages through the real command: hand-over, resumption, refusal. Each training is a process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests import made_stages
from tests.stages import DENSE, MOE, Tree, final_tensors, losses, train
from tst_titan import cli
from tst_titan.run.attempts import Attempts
from tst_titan.text import in_bytes
from tst_titan.titan.job import get_peak_flops
from tst_titan.titan.manifest import git_state
from tst_titan.titan.train import set_threads
from tst_titan.tree.plan import checkpoint_bytes
from tst_titan.tree.resolve import Stage

VOCABULARY = 64

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return Tree.make(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def chain(tree):
    """An undisturbed bag stage and token stage."""
    bag, token = tree.stage("bag4-6"), tree.stage("bag4-6/token-14")
    train(bag)
    train(token)
    return bag, token


def test_the_bag_loss_starts_near_ln_v(chain):
    first = losses(chain[0])[1]
    assert 0.9 * log(VOCABULARY) < first < 1.2 * log(VOCABULARY)


@pytest.mark.parametrize("model", [DENSE, MOE], ids=["dense", "moe"])
def test_bfloat16_stays_near_float32_in_both_phases(tmp_path, model):
    found = {}
    for precision in ("float32", "bfloat16"):
        tree = Tree.make(tmp_path, model=model, recipe=precision).with_runtime(loss_chunks=2)
        folders = [tree.stage(lineage, precision=precision) for lineage in ("bag4-3", "bag4-3/token-5")]
        for folder in folders:
            train(folder)
        found[precision] = losses(folders[0]) | losses(folders[1])
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.003)
    assert found["bfloat16"] != found["float32"]


def test_mfu_counts_latents_in_both_phases(tmp_path):
    peak = 2e-6  # of a machine that makes 2 million FLOPs a second: the ratios come out large
    tree = Tree.make(tmp_path).with_runtime(peak_tflops=peak)
    for lineage in ("bag4-4", "bag4-4/token-8"):
        folder = tree.stage(lineage)
        train(folder)
        before, line = map(json.loads, folder.metrics_path.read_text().splitlines()[-2:])
        seconds = line["seconds"] - before["seconds"]
        flops_per_latent = folder.manifest()["flops_per_latent"]
        assert line["mfu"] == pytest.approx(64 * flops_per_latent / seconds / (peak * 1e12))
        assert line["flops"] - before["flops"] == 64 * flops_per_latent
        assert line["latents_per_second"] == pytest.approx(64 / seconds)
        assert line["data_tokens_per_second"] == pytest.approx(64 * folder.stage.bag_size / seconds)


def test_no_lspci_that_may_be_run_and_no_git_leave_the_peak_to_the_devices_name(tmp_path, monkeypatch):
    (tmp_path / "lspci").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PermissionError):  # as for a folder of the PATH that may not be read
        subprocess.run(["lspci"])
    assert get_peak_flops("NVIDIA H200") == 989e12
    assert git_state() == {"git_commit": None, "git_dirty": None}


def test_the_manifest_adds_up(chain):
    bag, token = (folder.manifest() for folder in chain)
    assert (bag["latents"], bag["data_tokens"]) == (6 * 64, 6 * 64 * 4)
    assert (token["latents"], token["data_tokens"]) == (14 * 64, (6 * 4 + 8) * 64)
    assert token["flops"] == pytest.approx(14 * 64 * token["flops_per_latent"])
    assert token["parent_identity"] == bag["identity"]
    assert token["position"] == (6 * 4 + 8) * 16
    assert token["seconds"] == pytest.approx(bag["stage_seconds"] + token["stage_seconds"])


def test_what_comparison_and_report_are_tested_on_has_a_real_manifests_keys(chain, tmp_path):
    real = chain[1].manifest()
    (folder,) = made_stages.write_run(tmp_path, [("token", 1, 4)], lambda step, phase, size: 3.0)
    made = json.loads((Path(folder) / "manifest.json").read_text())
    assert made.keys() == real.keys()
    assert made["machine"].keys() == real["machine"].keys()


def test_keys_are_the_same_in_both_phases_and_moments_cross_the_switch(chain, tree):
    bag, token = map(final_tensors, chain)
    assert bag.keys() == token.keys()
    one = tree.stage("bag4-6/token-7")
    train(one)
    fresh = tree.stage("bag4-6/token-7-model_only", handover={"load": "model_only"})
    train(fresh)
    name = "optimizer.state.norm.weight"
    assert final_tensors(one)[f"{name}.step"].item() == 7
    assert final_tensors(fresh)[f"{name}.step"].item() == 1
    kept, dropped = (final_tensors(folder)[f"{name}.exp_avg_sq"] for folder in (one, fresh))
    assert torch.all(kept > dropped)


def test_reinitialized_parts_start_anew_and_the_rest_goes_on(chain, tree):
    folder = tree.stage("bag4-6/token-7-reinit", handover={"reinitialize": ["embedding", "lm_head"]})
    train(folder)
    parent, child = final_tensors(chain[0]), final_tensors(folder)
    moved = {
        name: (parent[name] - child[name]).abs().max().item() for name in parent if "optimizer" not in name
    }
    assert moved["tok_embeddings.weight"] > 1 and moved["lm_head.weight"] > 0.2
    # One step of Adam moves a weight by about the learning rate, 0.01.
    assert moved["layers.0.feed_forward.w1.weight"] < 0.1
    assert child["optimizer.state.tok_embeddings.weight.step"].item() == 1
    assert child["optimizer.state.layers.0.feed_forward.w1.weight.step"].item() == 7


def test_one_of_two_tied_parts_cannot_start_anew(tmp_path):
    tree = Tree.make(tmp_path, model={**DENSE, "tied_embeddings": True})
    with pytest.raises(ValidationError, match=r"found embedding alone.*\[embedding, lm_head\], or neither"):
        tree.stage("bag4-6/token-7", handover={"reinitialize": ["embedding"]})


def test_killed_twice_and_stopped_once_ends_bit_identical(chain, tmp_path):
    tree = Tree.make(tmp_path)
    bag, token = tree.stage("bag4-6"), tree.stage("bag4-6/token-14")
    _kill_after_step(bag, 5)
    train(bag)
    _kill_after_step(token, 9)
    _stop_after_step(token, 10)
    assert not token.manifest_path.exists()
    done = train(token)
    assert "resumes from its checkpoint" in done.stderr
    assert_bit_identical((bag, token), chain)


def assert_bit_identical(found, expected) -> None:
    for resumed, undisturbed in zip(found, expected, strict=True):
        assert losses(resumed) == losses(undisturbed)
        ours, theirs = final_tensors(resumed), final_tensors(undisturbed)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_mixture_of_experts_that_dies_in_a_phase_and_at_the_switch_ends_bit_identical(tmp_path):
    whole, cut = (Tree.make(tmp_path, model=MOE, recipe=recipe) for recipe in ("whole", "cut"))
    lineages = ("bag4-6", "bag4-6/token-10")
    expected = tuple(whole.stage(lineage) for lineage in lineages)
    for folder in expected:
        train(folder)
    bag, token = (cut.stage(lineage) for lineage in lineages)
    _kill_after_step(bag, 5)
    assert "resumes from its checkpoint of step 4" in train(bag).stderr
    _kill_after_step(token, 7)
    shutil.rmtree(token.path / "checkpoint", ignore_errors=True)  # as if it had died before its first
    assert "starts from bag4-6 at step 6" in train(token).stderr
    assert_bit_identical((bag, token), expected)


def test_a_small_model_takes_one_thread_and_a_stated_number_is_obeyed(tmp_path):
    """Not measured at the start: with 3 threads Adam's moments differ in the last bit, so a resume could differ."""
    before = torch.get_num_threads()
    tree = Tree.make(tmp_path)
    try:
        found = []
        for threads in (0, 3):
            set_threads(tree.with_runtime(cpu_threads=threads).stage("token-4"))
            found.append(torch.get_num_threads())
        assert found == [1, 3]
    finally:
        torch.set_num_threads(before)


def test_a_changed_config_starts_again_from_the_parent_and_keeps_the_old_checkpoints(chain, tree):
    folder = tree.stage("bag4-6/token-10")
    train(folder)
    old = folder.path / folder.manifest()["checkpoint"]
    changed = tree.stage("bag4-6/token-10", optimizer={"learning_rate": 0.02})
    done = train(changed)
    assert "starts from bag4-6 at step 6" in done.stderr and "left alone" in done.stderr
    assert changed.manifest()["identity"] != old.parent.name and (old / ".metadata").exists()


# Training whose loss is multiplied by a number from a step on.
DIVERGING = """
import sys
from tst_titan.titan import train
from tst_titan.titan import cpu
cpu.prepare()
from tst_titan.titan.trainer import StageTrainer
whole = StageTrainer.forward_backward_step
def diverging(self, **given):
    if self.step >= {step}:
        next(iter(self.model_parts[0].parameters())).data.mul_({factor})
    return whole(self, **given)
StageTrainer.forward_backward_step = diverging
sys.exit(train.main([sys.argv[1]]))
"""


def diverge(folder, step: int, factor: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DIVERGING.format(step=step, factor=factor), str(folder.path)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, and a function that sets its size in kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4000k", "tmpfs", folder], capture_output=True
    ).returncode:
        pytest.skip("mounting needs root")
    yield (
        folder,
        lambda kilobytes: subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", folder], check=True),
    )
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_a_sentence_before_training_where_it_can_be_known_and_in_the_middle(small_disk):
    disk, resize = small_disk
    folder = Tree.make(disk).stage("token-14")
    stage = Stage(folder.recipe, folder.lineage, folder.stage, folder.runtime)
    needed, used = 3 * checkpoint_bytes(stage), shutil.disk_usage(disk).used
    resize((used + needed) // 1000 - 100)
    done = train(folder, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        f"{folder.path}: checkpoints need {in_bytes(needed)} ({in_bytes(needed / 3)} each), but "
        in done.stderr
    )
    # So small a checkpoint takes more than weights and moments alone: the first is whole, not the second.
    resize((used + needed) // 1000 + 50)
    done = train(folder, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"{folder.path}: the disk or your quota is full: " in done.stderr
    assert f"a checkpoint takes {in_bytes(needed / 3)}. Free some" in done.stderr
    resize(100_000)
    assert "resumes from its checkpoint of step" in train(folder).stderr


def truncate(path: Path) -> str:
    """Half of the file is gone."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return f"{path} has {len(content) // 2:,} bytes instead of {len(content):,}"


def delete(path: Path) -> str:
    path.unlink()
    return f"{path} is missing"


def flip(path: Path) -> str:
    """One bit is another."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    return f"{path}: the bytes are not those that were written"


def checkpoint(folder, step: int) -> Path:
    (found,) = (folder.path / "checkpoint").glob(f"*/step-{step}")
    return found


@pytest.mark.parametrize(
    ("spoil", "listed"), [(truncate, True), (delete, True), (flip, True), (truncate, False)]
)
def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_used(chain, tmp_path, spoil, listed):
    shutil.copytree(chain[0].results, tmp_path / "results")
    folder = Tree(tmp_path / "results").stage("bag4-6/token-14")
    before = losses(folder)
    folder.manifest_path.unlink()
    newest = checkpoint(folder, 14)
    if not listed:  # as an earlier version left it
        (newest / "files-0.json").unlink()
    problem = spoil(newest / "__0_0.distcp")
    done = train(folder)
    if listed:
        assert f"step 14 is damaged: {problem}; " in done.stderr
    assert "is now" in done.stderr and "the one of step 12 is used" in done.stderr
    assert losses(folder) == before and "step 14/14" in done.stderr and "step 12/14" not in done.stderr
    assert newest.with_name("damaged-14").is_dir() and (newest / "files-0.json").is_file()


@pytest.mark.parametrize("spoil", [delete, flip])
def test_a_damaged_parent_is_told_with_the_way_back(chain, tmp_path, capsys, spoil):
    shutil.copytree(chain[0].results, tmp_path / "results", ignore=shutil.ignore_patterns("token-14"))
    tree = Tree(tmp_path / "results")
    parent, child = tree.stage("bag4-6"), tree.stage("bag4-6/token-14")
    tensors = final_tensors(parent)
    problem = spoil(checkpoint(parent, 6) / "__0_0.distcp")
    done = train(child, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"is damaged: {problem}." in done.stderr and f"`tst-titan restore {parent.path}`" in done.stderr
    assert cli.main(["verify", str(tree.results)]) == 2
    assert (
        f"corpus tiny  whole\ntest bag4-6 step-4  whole\ntest bag4-6 step-6  {problem}\n"
        in capsys.readouterr().out
    )
    assert cli.main(["restore", str(parent.path)]) == 0
    assert cli.main(["verify", str(tree.results)]) == 0
    assert all(torch.equal(value, tensors[name]) for name, value in final_tensors(parent).items())
    train(child)


def test_two_ranks_list_their_files_while_training_goes_on_and_find_damage_together(tmp_path):
    runtime = {"processes_per_node": 2, "async_checkpoint": True}
    folder = Tree.make(tmp_path, runtime=runtime).stage("token-6")
    train(folder)
    for step in (4, 6):
        names = [
            set(json.loads((checkpoint(folder, step) / f"files-{rank}.json").read_text())) for rank in (0, 1)
        ]
        assert names == [{"__0_0.distcp", ".metadata"}, {"__1_0.distcp"}]
    before = losses(folder)
    folder.manifest_path.unlink()
    problem = flip(checkpoint(folder, 6) / "__1_0.distcp")
    done = train(folder)
    assert f"is damaged: {problem}; " in done.stderr and "the one of step 4 is used" in done.stderr
    assert losses(folder) == before


@pytest.mark.parametrize("factor", ["float('nan')", "float('inf')"])
def test_a_loss_that_is_not_finite_stops_with_the_step_and_keeps_the_last_good_checkpoint(tmp_path, factor):
    folder = Tree.make(tmp_path).with_runtime(log_every=3).stage("token-12")
    done = diverge(folder, 8, factor)
    assert done.returncode == 2, done.stderr
    assert "not finite" in done.stderr and "step 8; step 6 was the last logged one" in done.stderr
    kept = next((folder.path / "checkpoint").glob("*/step-4"))
    assert f"the last good checkpoint, {kept}, is kept" in done.stderr and (kept / ".metadata").exists()
    assert "lower learning rate" in done.stderr and not folder.manifest_path.exists()
    assert "resumes from its checkpoint of step 4" in train(folder).stderr


def test_a_stage_that_diverges_at_once_names_its_parents_checkpoint(chain, tree):
    changes = {"optimizer": {"learning_rate": 1e30}, "schedule": {"warmup_steps": 0}}
    folder = tree.with_runtime(checkpoint_every=50).stage("bag4-6/token-9", **changes)
    done = train(folder, check=False)
    parent = chain[0].path / chain[0].manifest()["checkpoint"]
    assert done.returncode == 2 and f"the last good checkpoint is the parent's, {parent}" in done.stderr


def test_refuses_a_parent_that_changed(tmp_path):
    tree = Tree.make(tmp_path)
    train(tree.stage("bag4-2"))
    tree.stage("bag4-2", seed=1)
    done = train(tree.stage("bag4-2/token-4"), check=False)
    assert done.returncode == 2 and "stage_sha256" in done.stderr and "train it again" in done.stderr


def test_refuses_a_truncated_shard(tmp_path):
    tree = Tree.make(tmp_path)
    shard = sorted((tmp_path / "data/tiny/tokens/train").glob("*.ds"))[0]
    shard.write_bytes(shard.read_bytes()[:-2])
    done = train(tree.stage("token-4"), check=False)
    assert done.returncode == 2 and "truncated" in done.stderr and shard.name in done.stderr


def test_the_reason_of_a_refusal_is_the_last_word_of_two_ranks_too(tmp_path):
    tree = Tree.make(tmp_path, model={**DENSE, "vocab_size": 60}).with_runtime(processes_per_node=2)
    folder = tree.stage("token-4")
    done = train(folder, check=False)
    assert done.returncode == 2 and "vocab_size: found 60" in done.stderr.splitlines()[-1]
    folder = replace(tree, model=DENSE).stage("token-4")
    train(folder)
    assert not folder.refused_file.exists()


def test_refuses_too_few_tokens_before_training(tmp_path):
    tree = Tree.make(tmp_path).with_runtime(run_tokens_per_lane=20_000)
    done = train(tree.stage("token-4"), check=False)
    assert done.returncode == 2
    assert "80,000 are needed" in done.stderr and "60,000" in done.stderr and "repetition" in done.stderr


def test_refuses_a_vocabulary_smaller_than_the_tokenizers(tmp_path):
    tree = Tree.make(tmp_path, model={**DENSE, "vocab_size": 60})
    done = train(tree.stage("token-4"), check=False)
    assert done.returncode == 2 and "vocab_size: found 60" in done.stderr and "64" in done.stderr


def test_a_stage_that_dies_twice_at_one_step_is_tried_a_third_time_by_people_alone(tmp_path):
    tree = Tree.make(tmp_path)
    folder = tree.stage("token-400")
    for attempt in ("1", "2"):
        _kill_after_step(folder, 1, "--attempt", attempt, before_checkpoint=True)
    done = train(folder, "--attempt", "3", check=False)
    assert done.returncode == 2 and "died 2 times after step 0" in done.stderr
    _kill_after_step(folder, 1, before_checkpoint=True)
    assert Attempts(folder).jobs()[-1]["attempt"] == 3


def _start(folder, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tst_titan.cli", "train", str(folder.path), *arguments],
        stderr=subprocess.DEVNULL,
    )


def _wait_for_step(folder, step: int) -> None:
    deadline = time.time() + 300
    while time.time() < deadline:
        if folder.metrics_path.exists() and any(
            json.loads(line)["step"] >= step for line in folder.metrics_path.read_text().splitlines()
        ):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was never reached")


def _training_process(parent: int) -> int:
    """The child of the launcher that trains."""
    children = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True).stdout.split()
    return int(children[0])


def _kill_after_step(folder, step: int, *arguments: str, before_checkpoint: bool = False) -> None:
    process = _start(folder, *arguments)
    _wait_for_step(folder, step)
    os.kill(_training_process(process.pid), signal.SIGKILL)
    assert process.wait() != 0
    if before_checkpoint:
        folder.metrics_path.unlink()


def _stop_after_step(folder, step: int) -> None:
    left_by_the_last_attempt = folder.metrics_path.stat().st_ino
    process = _start(folder)
    while folder.metrics_path.stat().st_ino == left_by_the_last_attempt:
        time.sleep(0.01)  # a resuming stage rewrites its metrics before its first step
    _wait_for_step(folder, step)
    process.send_signal(signal.SIGTERM)
    # The stage may have finished before the signal arrived only if it is very short.
    assert process.wait() == 85
