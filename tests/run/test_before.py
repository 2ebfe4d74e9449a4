"""A home or a checkout that cannot be written."""

import os
import subprocess
import sys

import pytest

from tests.workflow.project import ProjectCopy
from tst_titan.run.before import prepare_folders, warn_of_little_space


def test_a_cache_that_cannot_be_made_is_replaced_by_one_here(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prepare_folders(["snakemake"])
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "cache")
    (tmp_path / "file").touch()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("TRITON_HOME", "/own")
    prepare_folders(["snakemake"])
    assert os.environ["XDG_CACHE_HOME"] == f"{tmp_path}/.snakemake/cache"
    assert os.environ["TRITON_HOME"] == "/own"
    assert f"{tmp_path}/file/.cache: cannot be written" in capfd.readouterr().err


def test_a_checkout_that_cannot_be_written_is_refused_with_the_command_that_works(tmp_path, monkeypatch):
    folder = tmp_path / "read only"
    folder.mkdir(mode=0o555)
    monkeypatch.chdir(folder)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may write everywhere
    try:
        with pytest.raises(SystemExit) as refusal:
            prepare_folders(["/bin/snakemake", "figure_3a", "--config", "scale=smoke"])
    finally:
        os.seteuid(user)
    command = f"snakemake -s '{folder}/Snakefile' figure_3a --config scale=smoke"
    assert str(refusal.value).startswith(f"{folder}: cannot be written; ")
    assert str(refusal.value).endswith(command)


def test_checkpoints_that_do_not_all_fit_are_told(tmp_path, capsys):
    warn_of_little_space(tmp_path, 10**6)
    assert capsys.readouterr().err == ""
    warn_of_little_space(tmp_path, 10**18)
    told = capsys.readouterr().err
    assert f"{tmp_path}: the checkpoints of the stages to train take 1,000 PB, " in told


@pytest.mark.slow
def test_the_workflow_runs_from_another_folder(tmp_path):
    project = ProjectCopy.make(tmp_path / "read only")
    (project.folder / "profiles").symlink_to("workflow/profiles")
    (tmp_path / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "-s", "../read only/Snakefile", "--config", "scale=smoke"],
        cwd=tmp_path / "elsewhere",
        env=os.environ | {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rule report:" in done.stdout + done.stderr
    assert not (project.folder / ".snakemake").exists() and not (project.folder / "results").exists()
    assert (tmp_path / "elsewhere/results/train").is_dir()
