"""Errors that a user can cause and mend, as opposed to bugs."""


class UserError(Exception):
    """A mistake in a config, a file or a command; its message says where, what was found and what would be valid.

    Command-line entry points print the message without a traceback and exit with ``EXIT_USER_ERROR``.
    """


EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 85  # training stopped on request, with a checkpoint; the same command continues it
