"""The quick start for one's own trainer runs as docs/quickstart.md prints it; the configs there are valid."""

import re
import subprocess
import sys
from pathlib import Path

from tests.shipped import ROOT, copy_configs, write_quickstart
from tst_titan import cli

TEXT = (ROOT / "docs/quickstart.md").read_text(encoding="utf8")


def test_the_loop_learns_through_the_switch():
    code = re.search(r"```python\n(.+?)```", TEXT, re.DOTALL)
    assert code
    done = subprocess.run([sys.executable, "-c", code[1]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = re.findall(r"step (\d+)  bags of (\d)  loss ([\d.]+)  ([\d,]+) tokens", done.stdout)
    steps, bags, losses, tokens = zip(*lines, strict=True)
    assert steps[-1] == "100" and bags == ("4",) * 3 + ("1",) * 7
    assert tokens[-1] == f"{(30 * 4 + 70) * 64 * 16:,}"
    assert float(losses[-1]) < float(losses[3]) < 5.6 and float(losses[-1]) < 3.3


def test_the_files_for_ones_own_text_have_no_mistake(tmp_path: Path, monkeypatch, capsys):
    copy_configs(tmp_path)
    (tmp_path / "envs").symlink_to(ROOT / "envs")
    write_quickstart(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check"]) == 0, capsys.readouterr().out
    assert cli.main(["plan", "mine", "--scale", "mine"]) == 0
    assert "gpu-small 57,156,096" in capsys.readouterr().out
