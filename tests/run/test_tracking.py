"""Weights & Biases beside real training: files that can be read back, and a network that is not there."""

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections import defaultdict
from typing import Any

import pytest

from tests.shipped import shipped_root
from tests.stages import Tree, losses, train
from tst_titan.run.tracking import LONGEST_NAME, Curve, _short
from tst_titan.tree.project import Project

pytestmark = pytest.mark.slow

RUN = "test/bag4-6/token-14"
OTHER = "test/bag4-6/token-10"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc


def records(path):
    """The records of a .wandb file: blocks of 32 KiB, in them pieces with checksum, length and kind."""
    from wandb.proto import wandb_internal_pb2

    data, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(whole)
            yield record
            whole = b""


def sent(folder):
    """What a stage's folder would send: (group, run's name) -> header and rows by step."""
    found = {}
    rows: dict[Any, dict[int, dict[str, Any]]] = defaultdict(dict)
    for path in sorted((folder.path / "logs/wandb").glob("*run-*/*.wandb")):
        key = None
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                key = (record.run.run_group, record.run.display_name)
                found[key] = record.run
            if kind == "history":
                items = {
                    item.key or item.nested_key[0]: json.loads(item.value_json)
                    for item in record.history.item
                }
                assert items["step"] not in rows[key], "a step is sent once"
                rows[key][items["step"]] = items
    return found, dict(rows)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return Tree.make(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def offline(tree):
    """A bag stage that two runs share, and the token stage of each, all with W&B offline."""
    shared = tree.with_runtime(wandb="offline")
    bag = shared.stage("bag4-6")
    token = shared.with_runtime(wandb_group=RUN).stage("bag4-6/token-14")
    other = shared.with_runtime(wandb_group=OTHER).stage("bag4-6/token-10")
    environment = {"WANDB_MODE": "disabled"}  # ours says offline, whatever the user's shell says
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for folder in (bag, token, other):
            train(folder)
    return bag, token, other


def test_a_shared_stage_is_a_group_of_its_own(offline):
    headers, rows = sent(offline[0])
    assert list(headers) == [("test/bag4-6", "test bag4-6")]
    header = headers["test/bag4-6", "test bag4-6"]
    assert header.job_type == "bag" and header.project == "tst-titan" and "shared" in header.tags
    assert {step: row["loss"] for step, row in rows["test/bag4-6", "test bag4-6"].items()} == losses(
        offline[0]
    )
    last, measured = rows["test/bag4-6", "test bag4-6"][6], offline[0].heldout.read()[-1]
    assert (last["heldout_loss"], last["heldout_bag_loss"]) == (measured["token_loss"], measured["bag_loss"])


@pytest.mark.parametrize("which", [1, 2])
def test_all_stages_of_a_run_are_one_curve_in_its_group(offline, which):
    folder, group = offline[which], (RUN, OTHER)[which - 1]
    headers, rows = sent(folder)
    bag, token = (group, "test bag4-6"), (group, folder.title)
    assert set(headers) == {bag, token}
    assert [headers[key].job_type for key in (bag, token)] == ["bag", "token"]
    assert {step: row["loss"] for step, row in rows[bag].items()} == losses(offline[0])
    assert {step: row["loss"] for step, row in rows[token].items()} == losses(folder)
    curve = [*rows[bag].values(), *rows[token].values()]
    for axis in ("step", "latents", "data_tokens", "flops", "hours", "device_hours"):
        values = [row[axis] for row in curve]
        assert values == sorted(values) and values[0] < values[-1], axis
    assert curve[-1]["hours"] == pytest.approx(folder.manifest()["seconds"] / 3600)
    assert curve[-1]["device_hours"] == pytest.approx(folder.manifest()["device_hours"])
    config = {item.key: item.value_json for item in headers[token].config.update}
    assert json.loads(config["run"]) == group
    assert json.loads(config["optimizer"])["learning_rate"] == 0.01


def test_ids_are_the_same_for_the_same_result_and_differ_between_groups(offline):
    bag = offline[0]
    one, again, other = (Curve(bag, "identity", group, {}, bag) for group in ("a", "a", "b"))
    assert one.id == again.id != other.id
    assert Curve(bag, "another identity", "a", {}, bag).id != one.id


def test_a_stopped_stage_sends_every_step_once_over_two_processes(tree):
    folder = tree.with_runtime(wandb="offline", wandb_group="test/token-900").stage("token-900")
    process = subprocess.Popen([sys.executable, "-m", "tst_titan.cli", "train", str(folder.path)])
    while not folder.metrics_path.exists():
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 85
    train(folder)
    headers, rows = sent(folder)
    pieces = list((folder.path / "logs/wandb").glob("offline-run-*/*.wandb"))
    assert len(pieces) == 2 and len(headers) == 1
    (found,) = rows.values()
    assert found.keys() == losses(folder).keys()


def test_lines_that_an_earlier_attempt_left_wait_until_training_has_cut_them_back(tree):
    folder = tree.stage("token-3")
    line = {"step": 1, "loss": 4.0, "seconds": 3600.0}
    folder.metrics_path.write_text(json.dumps(line) + "\n" + json.dumps({**line, "step": 2}) + "\n")
    curve = Curve(folder, "identity", "group", {}, folder, stale=folder.metrics_path.stat().st_ino)
    assert curve.rows(after=-1) == []
    cut = folder.metrics_path.with_suffix(".tmp")
    cut.write_text(json.dumps(line) + "\n" + '{"step": 2, "lo')
    cut.replace(folder.metrics_path)
    assert [(row["step"], row["hours"]) for row in curve.rows(after=-1)] == [(1, 1.0)]
    with folder.metrics_path.open("a") as out:
        out.write('ss": 3.0, "seconds": 7200.0}\n')
    assert [(row["step"], row["loss"]) for row in curve.rows(after=1)] == [(2, 3.0)]


@pytest.mark.parametrize("missing", ["key", "server", "answer"])
def test_without_key_or_network_training_ends_as_ever_and_the_metrics_are_on_disk(
    tmp_path, monkeypatch, missing
):
    tree = Tree.make(tmp_path / "results")
    folder = tree.with_runtime(wandb="online", wandb_group=RUN).stage("token-6")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "4")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if missing == "answer":
            silent.listen()  # accepts and never answers
        if missing != "key":
            monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        done = train(folder)
    assert folder.manifest()["end_step"] == 6
    assert "warning" in done.stderr and "wandb sync" in done.stderr
    assert "Traceback" not in done.stderr
    (rows,) = sent(folder)[1].values()
    assert {step: row["loss"] for step, row in rows.items()} == losses(folder)


def test_off_starts_nothing(tmp_path):
    folder = Tree.make(tmp_path).stage("token-2")
    train(folder)
    assert not (folder.path / "logs/wandb").exists()


def test_the_groups_are_the_logical_runs():

    config = {"scale": "smoke", "experiments": ["figure_3a", "patch_level"], "wandb": "offline"}
    stages = Project.open(shipped_root(), config).stages
    groups = {stage.lineage: stage.runtime.wandb_group for stage in stages.values()}
    assert groups["token-18/decay-20"] == "smoke-small/token-18/decay-20" == groups["token-18"]
    assert {stage.runtime.wandb for stage in stages.values()} == {"offline"}
    off = Project.open(shipped_root(), {**config, "wandb": "off"}).stages
    assert {stage.runtime.wandb_group for stage in off.values()} == {None}


def test_long_names_are_cut_and_stay_apart():
    one, other = "x" * 300 + "1", "x" * 300 + "2"
    assert len(_short(one)) <= LONGEST_NAME and _short(one) != _short(other)
