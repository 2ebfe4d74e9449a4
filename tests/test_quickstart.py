"""The configs that docs/quickstart.md prints are valid."""

from pathlib import Path

from tests.shipped import ROOT, copy_configs, write_quickstart
from tst_titan import cli


def test_the_files_for_ones_own_text_have_no_mistake(tmp_path: Path, monkeypatch, capsys):
    copy_configs(tmp_path)
    (tmp_path / "envs").symlink_to(ROOT / "envs")
    write_quickstart(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check"]) == 0, capsys.readouterr().out
    assert cli.main(["plan", "mine", "--scale", "mine"]) == 0
    assert "gpu-small 57,156,096" in capsys.readouterr().out
