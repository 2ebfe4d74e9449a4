"""Every command that README and docs/ print can be typed as it stands; the long ones are tried dry."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shipped import write_quickstart
from tests.workflow.project import REPOSITORY, ProjectCopy
from tst_titan import cli

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("docs/*.md"))]
PROGRAMS = ("snakemake", "make", "tst-titan", "python", "pip")
# What a reader puts in.
PLACES = {
    "<recipe>/<lineage>": "smoke-small/bag2-5",
    "<corpus>": "smoke",
    "/path/to/checkout/": "",
    "STAGE OUT": "results/train/smoke-small/bag2-5 out",
}
QUICK = {"plan", "recommend", "status"}


def _commands() -> list[str]:
    """Distinct commands of indented blocks and of inline code, without comments, prompts and options in brackets."""
    found: dict[str, None] = {}
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf8").replace("\\\n", " ")
        lines = re.findall(r"^    (?:\$ )?(.+)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)
        for line in lines:
            command = re.sub(r"\s+#.*$|\[[^]]*\]", "", line).split(" && ")[0].strip()
            for place, value in PLACES.items():
                command = command.replace(place, value)
            if command.split(" ")[0] in PROGRAMS and " " in command and "..." not in command:
                found[" ".join(command.split())] = None
    return list(found)


COMMANDS = _commands()


def _of(program: str) -> list[str]:
    return [command for command in COMMANDS if command.split()[0] == program]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> ProjectCopy:
    project = ProjectCopy.make(tmp_path_factory.mktemp("printed"))
    (project.folder / "profiles").symlink_to("workflow/profiles")
    shutil.copy(REPOSITORY / "Makefile", project.folder)
    write_quickstart(project.folder)
    return project


def test_there_are_commands_of_every_program():
    assert all(_of(program) for program in PROGRAMS) and len(COMMANDS) > 40


@pytest.mark.slow
@pytest.mark.parametrize("command", _of("snakemake"))
def test_snakemake_takes_it(project, command):
    words = shlex.split(command)[1:]
    if "--report" in words:
        pytest.skip("needs finished results; tests/report makes the page")
    for tool in {"conda", "apptainer"} & set(words):
        if shutil.which(tool) is None:
            pytest.skip(f"Snakemake asks {tool}, which is not here")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *words, "-n"],
        cwd=project.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("command", _of("make"))
def test_make_knows_it(command):
    done = subprocess.run(
        ["make", "-n", *shlex.split(command)[1:]], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("command", _of("tst-titan"))
def test_tst_titan_takes_it(project, command, monkeypatch):
    words = shlex.split(command)[1:]
    if len(words) == 1:  # the name of a subcommand in a sentence
        assert words[0] in cli.COMMANDS
        return
    monkeypatch.chdir(project.folder)
    parsed = cli.make_parser().parse_args(words)
    if words[0] in QUICK:
        assert parsed.run(parsed) == 0


@pytest.mark.parametrize("command", _of("python"))
def test_python_finds_the_module(command):
    words = shlex.split(command)
    if words[1] != "-m":
        assert (REPOSITORY / words[1]).exists()
    elif words[2] == "pytest":
        paths = [word for word in words[3:] if word.startswith("tests/")]
        assert paths and all((REPOSITORY / path).exists() for path in paths)
    elif words[2] != "venv":
        assert importlib.util.find_spec(words[2]) is not None


@pytest.mark.parametrize("command", _of("pip"))
def test_pip_is_given_files_that_exist(command):
    for word in shlex.split(command):
        if "/" in word and "://" not in word:
            assert (REPOSITORY / word).exists(), command


def test_targets_behind_config_get_a_sentence(project):
    """Snakemake's own words for this are a traceback: `--config` takes what follows it as keys."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--config", "scale=smoke", "figure_3a"],
        cwd=project.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "snakemake figure_3a -n --config scale=smoke" in done.stderr


def test_links_between_documents_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf8")):
            assert (document.parent / Path(target)).exists(), f"{document.name}: {target}"
