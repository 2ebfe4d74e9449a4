"""The ``tst-titan`` command: what people and rules call by hand. Each subcommand lives in its own module."""

from __future__ import annotations

import argparse
import sys

from tst_titan.errors import EXIT_USER_ERROR, UserError


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and run a subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="tst-titan", description="Token Superposition Training on torchtitan."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_commands(commands, sys.argv[1:] if arguments is None else arguments)
    parsed = parser.parse_args(arguments)
    try:
        return parsed.run(parsed)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR


def _add_commands(commands: argparse._SubParsersAction, words: list[str]) -> None:
    from tst_titan import plan
    from tst_titan.data import command as data
    from tst_titan.run import launch, prune, restore, status

    launch.add_arguments(commands.add_parser("train", help="train one stage of the tree, all its processes"))
    data.add_arguments(
        commands.add_parser("data", help="run one step of a corpus, from sources to token shards")
    )
    plan.add_arguments(
        commands.add_parser("plan", help="stages, FLOPs, hours and disk of experiments, before they run")
    )
    prune.add_arguments(commands.add_parser("prune", help="remove checkpoints that nothing needs any more"))
    restore.add_arguments(
        commands.add_parser("restore", help="train a stage again for its pruned checkpoint")
    )
    status.add_arguments(
        commands.add_parser("status", help="state, step, speed and time left of every stage")
    )
    # The regression needs pandas and scipy, which a training job should not wait for.
    if {"recommend", "--help", "-h"} & set(words):
        from tst_titan.paper import recommend

        recommend.add_arguments(commands.add_parser("recommend", help="choose s and r for a budget"))


if __name__ == "__main__":
    sys.exit(main())
