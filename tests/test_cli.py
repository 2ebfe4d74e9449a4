"""The one command: what it lists, what it imports, and how it ends."""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.shipped import shipped_root
from tst_titan.cli import COMMANDS, main

HEAVY = ("torch", "torchtitan", "pandas", "scipy", "matplotlib", "wandb", "transformers", "datatrove")


def help_and_imports(*words):
    """What `tst-titan WORDS --help` prints in a fresh process, and the packages that it imported."""
    asked = (
        "import sys\nfrom tst_titan.cli import main\n"
        "try:\n    main([*sys.argv[1:], '--help'])\n"
        "except SystemExit:\n    print('IMPORTED', *(name for name in sys.modules if '.' not in name))\n"
    )
    done = subprocess.run([sys.executable, "-c", asked, *words], capture_output=True, text=True, check=True)
    text, _, imported = done.stdout.partition("IMPORTED ")
    return text, set(imported.split())


def test_help_lists_every_command_and_imports_none():
    text, imported = help_and_imports()
    for name, command in COMMANDS.items():
        assert f"    {name}" in text and command.help in text
    assert not set(HEAVY) & imported


@pytest.mark.parametrize("name", ["train", "status", "prune", "restore"])
def test_what_people_wait_for_imports_nothing_heavy(name):
    text, imported = help_and_imports(name)
    assert text.startswith(f"usage: tst-titan {name}")
    assert not set(HEAVY) & imported


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_asked_for_help(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: tst-titan {name}" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"tst-titan {version('tst-titan')}\n"


def test_the_commands_need_not_be_installed(monkeypatch, capsys, tmp_path):
    """Snakemake's conda environments have what the package needs, and not itself."""
    # An editable installation leaves its metadata beside the code as well as in site-packages.
    elsewhere = [entry for entry in sys.path if not list(Path(entry or ".").glob("tst_titan*-info"))]
    monkeypatch.setattr(sys, "path", elsewhere)
    monkeypatch.setattr(
        sys, "meta_path", [finder for finder in sys.meta_path if "editable" not in repr(finder)]
    )
    with pytest.raises(PackageNotFoundError):
        version("tst-titan")
    assert main(["status", str(tmp_path)]) == 2


def test_a_mistake_ends_with_a_sentence_and_status_2(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert "no stages" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "status"), [(["plan", "figure_6"], 141), (["--help"], 0)])
def test_a_reader_that_leaves_early_sees_no_traceback(words, status):
    read, write = os.pipe()
    os.close(read)  # what `| head` does to a long plan
    command = [sys.executable, "-m", "tst_titan.cli", *words]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=shipped_root())
    os.close(write)
    assert done.returncode == status and done.stderr == ""
