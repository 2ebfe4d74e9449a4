"""What `tst-titan status` says of a stage in every state, and what counts as an attempt."""

import json
import multiprocessing

import pytest

from tests.stages import Tree
from tst_titan import cli
from tst_titan.errors import UserError
from tst_titan.run.attempts import Attempts
from tst_titan.run.lock import sole_writer, writer_of
from tst_titan.run.status import StageStatus
from tst_titan.tree.metrics import MetricsFile

LINE = {
    "loss": 2.5,
    "seconds": 7200.0,
    "latents_per_second": 32.0,
    "data_tokens_per_second": 64.0,
    "mfu": 0.4,
}


@pytest.fixture
def stage(tmp_path):
    return Tree(tmp_path, runtime={"processes_per_node": 2}).stage("token-12")


def _log(stage, *steps):
    stage.metrics_path.write_text("".join(json.dumps({"step": step, **LINE}) + "\n" for step in steps))


def _checkpoint(stage, step):
    path = stage.path / f"checkpoint/abc/step-{step}/.metadata"
    path.parent.mkdir(parents=True)
    path.touch()


def _hold(folder, ready, end):
    with sole_writer(folder):
        ready.set()
        end.wait(30)


@pytest.fixture
def writer(stage):
    """Another process that trains the stage."""
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(stage, ready, end))
    process.start()
    assert ready.wait(30)
    yield process
    end.set()
    process.join()


def test_a_stage_that_was_only_rendered_is_not_listed(stage, capsys):
    """As a dry run leaves it."""
    results = str(stage.results)
    assert cli.main(["status", results]) == 2
    Attempts(stage).ask()
    assert cli.main(["status", results]) == 0
    assert "test token-12" in capsys.readouterr().out


def test_waiting(stage):
    status = StageStatus.of(stage)
    assert (status.state, status.step, status.end_step, status.attempt) == ("waiting", 0, 12, 0)


def test_running(stage, writer):
    Attempts(stage).begin(automatic=True)
    _log(stage, 3, 6)
    status = StageStatus.of(stage)
    # 6 steps of 64 latents are left, at 32 a second.
    assert status.state == "running" and status.seconds_left == 12
    assert status.device_hours == 4
    stage.heldout.append({"step": 6, "token_loss": 2.75})
    assert (
        StageStatus.of(stage)
        .sentence()
        .startswith("test token-12  running  step 6/12  loss 2.5000  held-out 2.75")
    )
    assert status.cells()[2:9] == ["6/12", "2.5000", "", "64", "40.0%", "0:12", "1"]
    with pytest.raises(UserError, match="another process is training"), sole_writer(stage):
        pass


def test_a_look_does_not_disturb(stage):
    with sole_writer(stage):
        pass
    assert writer_of(stage) is None
    with sole_writer(stage):
        pass


@pytest.mark.parametrize(("status", "state"), [(85, "stopped"), (1, "failed"), (2, "failed")])
def test_ended_without_a_manifest(stage, status, state):
    attempts = Attempts(stage)
    attempts.begin(automatic=True)
    attempts.end(status)
    assert StageStatus.of(stage).state == state


def test_starting_and_died(stage, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    Attempts(stage).begin(automatic=True)
    assert StageStatus.of(stage).state == "starting"
    state = json.loads(Attempts(stage).path.read_text())
    state["running"]["started"] -= 1000
    Attempts(stage).path.write_text(json.dumps(state))
    assert StageStatus.of(stage).state == "died" and StageStatus.of(stage).job == "77"


def test_finished_only_with_this_config(stage):
    stage.write_manifest({"stage_sha256": stage.stage_sha256, "world_size": 2})
    assert StageStatus.of(stage).state == "finished"
    stage.write_manifest({"stage_sha256": "other", "world_size": 2})
    assert StageStatus.of(stage).state == "waiting"


def test_two_attempts_that_vanish_at_one_step_are_the_last(stage):
    attempts = Attempts(stage)
    attempts.begin(automatic=True)
    attempts.begin(automatic=True)  # the first left no word: its node died
    with pytest.raises(UserError, match="died 2 times after step 0"):
        attempts.begin(automatic=True)
    assert StageStatus.of(stage).state == "given up"
    assert [job["status"] for job in attempts.jobs()] == [None, None]
    assert attempts.begin(automatic=False)["attempt"] == 3


def test_progress_between_deaths_allows_more(stage):
    attempts = Attempts(stage)
    for step in (2, 4, 6, 8):
        attempts.begin(automatic=True)
        _checkpoint(stage, step)
    assert attempts.begin(automatic=True)["from_step"] == 8


def test_stops_on_request_are_no_failures(stage):
    attempts = Attempts(stage)
    for _ in range(4):
        attempts.begin(automatic=True)
        attempts.end(85)
    assert attempts.exhausted() is None and attempts.read()["count"] == 4


def test_jobs_that_are_stopped_before_their_first_step_come_to_an_end(stage, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    attempts = Attempts(stage)
    for _ in range(5):
        attempts.begin(automatic=True)
        attempts.end(85)
    with pytest.raises(UserError, match=r"5 jobs were stopped after step 0 .*wall_minutes 120"):
        attempts.begin(automatic=True)
    _checkpoint(stage, 2)
    assert attempts.exhausted() is None


def test_another_config_starts_with_a_clean_slate(tmp_path):
    tree = Tree(tmp_path)
    for _ in range(2):
        Attempts(tree.stage("token-12")).begin(automatic=True)
    changed = tree.stage("token-12", seed=1)
    assert Attempts(changed).begin(automatic=True)["attempt"] == 1


def test_the_command(stage, capsys):
    _log(stage, 6)
    Attempts(stage).ask()
    assert cli.main(["status", str(stage.results)]) == 0
    shown = capsys.readouterr().out
    assert "test token-12 waiting 6/12" in " ".join(shown.split())
    assert "1 stages: 1 waiting; 4.00 device-hours" in shown
    assert cli.main(["status", str(stage.results / "nothing")]) == 2


@pytest.mark.parametrize("size", [10, 50_000])
def test_the_last_whole_line(tmp_path, size):
    path = tmp_path / "lines"
    path.write_text(json.dumps({"a": "x" * size}) + "\n" + json.dumps({"b": "y" * size}) + '\n{"c": 1')
    assert MetricsFile(path).last() == {"b": "y" * size}
    path.write_text('{"half')
    assert MetricsFile(path).last() is None and MetricsFile(tmp_path / "none").last() is None
