"""The `labeler` command: translate words into calls, show progress, tell the truth in the exit code.

Heavy imports (torch, transformers) happen inside the commands that need them, so that `--help` answers at once.
A command is a function in the module of its subject; importing the module puts it on the command line.
"""

from labeler.cli import evidence, intervene, jobs, keys, labels, planning, remote, service, train
from labeler.cli.app import app, main

__all__ = ["app", "evidence", "intervene", "jobs", "keys", "labels", "main", "planning", "remote", "service", "train"]
