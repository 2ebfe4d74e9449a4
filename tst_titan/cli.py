"""``tst-titan``: the one command for everything that a rule or a person calls.

A subcommand is a line of ``COMMANDS``. Its module offers ``add_arguments(parser)``, which sets the parser's default
``run`` to a function that takes the parsed arguments and returns the exit status. A module is imported only when its
subcommand is named, so ``tst-titan status`` waits for neither torch nor pandas.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from tst_titan.errors import EXIT_USER_ERROR, UserError
from tst_titan.files import full_disk
from tst_titan.run import warm


class Command(NamedTuple):
    """Where a subcommand lives, and its line of ``tst-titan --help``."""

    module: str
    help: str


COMMANDS = {
    # Plan and train.
    "check": Command("tst_titan.run.check", "every mistake in the files of configs/, before anything runs"),
    "plan": Command("tst_titan.run.plan", "stages, FLOPs, hours and disk of experiments, before they run"),
    "start": Command("tst_titan.titan.start", "check and hash the weights that runs start from"),
    "train": Command("tst_titan.run.launch", "train one stage of the tree, with all its processes"),
    "status": Command("tst_titan.run.status", "state, step, speed and time left of every stage"),
    "prune": Command("tst_titan.run.prune", "remove the checkpoints that nothing needs any more"),
    "verify": Command(
        "tst_titan.run.verify", "read all token shards and checkpoints against their checksums"
    ),
    "restore": Command("tst_titan.run.restore", "train a stage again for its pruned checkpoint"),
    # Data.
    "data": Command("tst_titan.data.command", "run one step of a corpus, from sources to token shards"),
    # Evaluate.
    "export": Command("tst_titan.titan.export", "write a finished stage's model in Hugging Face's format"),
    "evaluate": Command("tst_titan.evaluate", "measure an exported model: held-out loss, tasks"),
    # Compare and report.
    "compare": Command(
        "tst_titan.compare.command", "one table of everything that an experiment's runs measured"
    ),
    "report": Command("tst_titan.report.command", "figures, pages, tables, and what experiments found"),
    "results": Command(
        "tst_titan.report.publish", "run experiments and keep what they found in docs/results"
    ),
    # The paper.
    "recommend": Command("tst_titan.paper.recommend", "choose s and r for a budget"),
}


def make_parser() -> argparse.ArgumentParser:
    """The command line; a subcommand's arguments come from its module once it is named."""
    parser = argparse.ArgumentParser(
        prog="tst-titan", description="Token Superposition Training on torchtitan."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_CommandParser)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.help, description=command.help).module = command.module
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run a subcommand; returns the exit status."""
    try:
        try:
            if (status := warm.run(sys.argv[1:] if arguments is None else arguments)) is not None:
                return status
            parsed = make_parser().parse_args(arguments)
            return parsed.run(parsed)
        finally:
            sys.stdout.flush()
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    except ModuleNotFoundError as error:
        if (error.name or "tst_titan").startswith("tst_titan"):
            raise
        # `pip install tst-titan` brings tst_titan.superposition alone.
        print(f"tst-titan: {error.name} is missing: pip install 'tst-titan[pipeline]'", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:
        # `tst-titan plan | head`: what is still buffered must not fail once more when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        if (sentence := full_disk(error, Path.cwd())) is None:
            raise
        print(sentence, file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _version() -> str:
    try:
        return version("tst-titan")
    except PackageNotFoundError:
        # A conda environment of Snakemake's has what the package needs, and not the package.
        return "(not installed)"


class _CommandParser(argparse.ArgumentParser):
    """Asks the subcommand's module for its arguments only once the command line has named it."""

    module = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.module:
            import_module(self.module).add_arguments(self)
        return super().parse_known_args(args, namespace)


if __name__ == "__main__":
    sys.exit(main())
