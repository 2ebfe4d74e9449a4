"""The benchmark's script: that it runs, what it writes, and its arithmetic; never how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as everything
from benchmarks import measure, superposition


@pytest.mark.slow
def test_the_script_writes_every_comparison(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "bench.json"
    # In a process of its own, because it changes how malloc behaves.
    command = [sys.executable, "-m", "benchmarks.superposition", "--try-out", "--device", "cpu"]
    shown = subprocess.run(
        [*command, "--output", str(output)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=900,
        check=True,
    ).stdout
    written = json.loads(output.read_text())
    names = {(entry["group"], entry["name"]) for entry in written["ratios"]}
    assert ("MCE s=8", "paper's loop / ours") in names
    assert ("MCE s=8", "ours / one-label cross-entropy") in names
    assert ("MCE", "time at s=16 / at s=2") in names
    assert ("bag embedding s=16", "ours / copy of the rows") in names
    assert all(entry["value"] > 0 for entry in written["ratios"])
    assert written["machine"]["threads"] == 1 and written["machine"]["torch"] == torch.__version__
    assert all(len(times) == 2 for actions in written["seconds"].values() for times in actions.values())
    assert "MCE s=8: paper's loop / ours" in shown and str(output) in shown


def test_the_script_needs_nothing_but_torch() -> None:
    check = (
        "import sys, torch; had = set(sys.modules); import benchmarks.superposition; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - had} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) <= {"benchmarks", "tst_titan", "torch"}, done.stdout


@pytest.mark.slow
def test_the_plan_for_cuda_runs_in_small_on_the_cpu() -> None:
    plan = superposition.shrunk(superposition.CUDA_PLAN)
    bench = superposition.Bench(plan, torch.device("cpu"), "system")
    bench.run()
    assert any("64 x 300 bfloat16 in 8" in entry.shape for entry in bench.ratios)


def test_the_compared_losses_are_the_same_loss() -> None:
    head = superposition.Head(latents=16, vocab=50)
    logits, labels = superposition._logits(head, 8, torch.device("cpu"))
    ours = superposition._mce(8, torch.device("cpu"))(logits, labels)
    torch.testing.assert_close(ours, superposition._paper_loop(logits, labels))
    weight, tokens, _ = superposition._embedding(
        superposition.Lookup(latents=9, vocab=50, width=4), 8, torch.device("cpu")
    )
    means = superposition.bag_embedding(weight, tokens), superposition._lookup_loop(weight, tokens)
    torch.testing.assert_close(*means)


def test_ratios_are_taken_round_by_round_before_the_median() -> None:
    entry = measure.ratio(
        [2.0, 20.0, 9.0],
        [1.0, 10.0, 3.0],
        group="g",
        name="n",
        shape="x",
        device=torch.device("cpu"),
        pages="kept",
        target="<= 2.5",
    )
    assert (entry.low, entry.value, entry.high) == (2.0, 2.0, 2.5) and entry.met
    assert measure.is_met(3.0, ">= 3") and not measure.is_met(2.9, ">= 3") and not measure.is_met(3.1, "<= 3")


def test_peak_memory_sees_what_is_freed_again() -> None:
    def run() -> None:
        torch.zeros(1 << 20).add(1.0)

    assert 2 * 4 << 20 <= measure.peak_extra_bytes(run, torch.device("cpu")) < 3 * 4 << 20


def test_an_unknown_benchmark_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert everything.main(["superpositoin"]) == 2
    assert "superpositoin is not valid; there are " in capsys.readouterr().err
    assert "superposition" in everything.suites() and "measure" not in everything.suites()


def test_what_libraries_log_goes_to_a_file_and_the_end_of_a_failure_to_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "quiet.py").write_text("import sys\nprint('1.5')\nprint('chatter', file=sys.stderr)\n")
    (package / "broken.py").write_text("raise SystemExit('no memory')\n")
    monkeypatch.setattr(everything, "suites", lambda: ["broken", "quiet"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert everything.main([]) == 1
    out, err = capfd.readouterr()
    assert "1.5" in out and "chatter" not in out + err and "no memory" in err and "broken.log" in err
    assert (tmp_path / "results/bench/quiet.log").read_text() == "chatter\n"
