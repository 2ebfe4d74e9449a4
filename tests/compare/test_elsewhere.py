"""Runs that another trainer made, beside the pipeline's."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.compare.fake_runs import baseline, first_pair, law, make, pairs, texts, wsd
from tst_titan.compare.elsewhere import read_elsewhere
from tst_titan.compare.results import read_results, write_results
from tst_titan.errors import UserError
from tst_titan.report.figures import draw_experiment
from tst_titan.report.tables import run_text

LATENTS, FLOPS = 4096, 1e6
MANIFEST = {
    "format": 1,
    "made_by": "a loop 1.0",
    "parameters": {"total": 1000},
    "width": 64,
    "machine": {"device": "cpu"},
    "corpus_tokens": 5_000_000,
}


def write_elsewhere(
    folder: Path, end: int = 1000, switch: int = 300, bag_size: int = 4, **manifest: Any
) -> str:
    """A run with bags of ``bag_size`` up to ``switch``, which ends where a baseline of 1.5 times the steps does."""
    loss = wsd(end, switch=switch, final_step=1.5 * end)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST | manifest))
    lines, tokens = [], 0
    for step in range(10, end + 1, 10):
        bag = step <= switch
        tokens += 10 * LATENTS * (bag_size if bag else 1)
        phase = "bag" if bag else "token" if step <= 0.8 * end else "decay"
        lines.append(
            {
                "step": step,
                "loss": loss(step, phase, bag_size),
                "latents": step * LATENTS,
                "data_tokens": tokens,
                "flops": step * LATENTS * FLOPS,
                "seconds": 0.5 * step,
                "my_own_key": "passed over",
                **({"phase": phase, "bag_size": bag_size} if bag else {"phase": phase}),
            }
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def own(root: Path) -> dict[str, Any]:
    return baseline(root, 1000, axes={"width": 64})


def elsewhere(folder: str) -> dict[str, Any]:
    return {"name": "mine", "label": "my loop", "role": "elsewhere", "made_elsewhere": folder}


def test_its_numbers_are_those_of_its_files(tmp_path):
    results = make("pair", [own(tmp_path), elsewhere(write_elsewhere(tmp_path / "mine"))])
    numbers = results.metrics("mine")
    assert numbers["steps"].value == 1000 and numbers["bag_steps"].value == 300
    assert numbers["data_tokens"].value == LATENTS * (300 * 4 + 700)
    assert numbers["unique_data_tokens"].value == 5_000_000
    assert numbers["epochs"].value == pytest.approx(LATENTS * 1900 / 5_000_000)
    assert numbers["hours"].value == pytest.approx(500 / 3600)
    assert numbers["flops"].value == pytest.approx(1000 * LATENTS * FLOPS)
    assert numbers["final_loss"].value == pytest.approx(law(1500))
    assert numbers["final_loss"].sources == (f"{tmp_path}/mine/metrics.jsonl",)
    curve = results.curve("mine")
    assert list(dict.fromkeys(curve["phase"])) == ["bag", "token", "decay"]
    assert curve["hours"].iloc[-1] == pytest.approx(500 / 3600) and curve["hours"].is_monotonic_increasing
    assert set(curve["comparable"][curve["phase"] == "bag"]) == {False}


def test_it_is_compared_with_the_baseline_of_its_size_and_the_other_corpus_is_said(tmp_path):
    results = make("pair", [own(tmp_path), elsewhere(write_elsewhere(tmp_path / "mine"))])
    assert pairs(results) == [("base-1000", "mine")]
    assert first_pair(results)["equal_flops.difference"].value == pytest.approx(law(1500) - law(1000))
    assert "corpora" in texts(results, "warning")
    same = make("pair", [own(tmp_path), elsewhere(write_elsewhere(tmp_path / "mine", data_identity="data"))])
    assert "corpora" not in texts(same, "warning")
    other = write_elsewhere(tmp_path / "other", parameters={"total": 2000})
    assert pairs(make("pair", [own(tmp_path), elsewhere(other)])) == []


def test_it_is_drawn_and_printed(tmp_path):
    results = make("pair", [own(tmp_path), elsewhere(write_elsewhere(tmp_path / "mine"))])
    write_results(results, tmp_path / "compare")
    read = read_results(tmp_path / "compare")
    panels = draw_experiment(tmp_path / "compare/comparison.json", tmp_path / "figures")
    assert panels and any("my loop" in path.read_text() for path in (tmp_path / "figures").glob("*.svg"))
    assert "my loop" in run_text(read)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("width", None, "manifest.json: key width"),
        ("parameters", {"totl": 1}, "manifest.json: unknown key parameters.totl"),
        ("fromat", 1, "manifest.json: unknown key fromat (did you mean 'format'?)"),
        ("format", 2, "manifest.json: key format: found 2"),
    ],
)
def test_a_mistake_in_the_manifest_is_named(tmp_path, key, value, words):
    with pytest.raises(UserError) as refused:
        read_elsewhere(write_elsewhere(tmp_path, **{key: value}))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": None}, "metrics.jsonl, line 3: key loss: found None"),
        ({"loss": math.nan}, "metrics.jsonl, line 3: key loss: found nan"),
        ({"phase": "warmup"}, "metrics.jsonl, line 3: key phase: found 'warmup'"),
        ({"flops": "many"}, "metrics.jsonl, line 3: key flops: found 'many'"),
    ],
)
def test_a_mistake_in_a_line_is_named(tmp_path, change, words):
    path = Path(write_elsewhere(tmp_path)) / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | change)
    path.write_text("\n".join(lines))
    with pytest.raises(UserError) as refused:
        read_elsewhere(str(tmp_path))
    assert words in str(refused.value)


def test_counts_that_fall_and_files_that_lack_are_named(tmp_path):
    with pytest.raises(
        UserError, match=r"manifest.json: cannot be read .*has manifest.json and metrics.jsonl"
    ):
        read_elsewhere(str(tmp_path / "nothing"))
    path = Path(write_elsewhere(tmp_path / "mine")) / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], lines[3], *lines[5:]]))
    with pytest.raises(UserError, match=r"mine/metrics.jsonl: step goes from 50 to 40"):
        make("pair", [own(tmp_path), elsewhere(str(tmp_path / "mine"))])
