"""The `labeler` command: it turns words into calls, shows progress and returns an exit code that says what happened.

Heavy imports (torch, transformers) happen inside the commands that need them, so that `--help` answers at once.
A command is a function in the module of its subject; importing the module puts it on the command line.
"""

from labeler.cli import (
    activations,
    check,
    diff,
    embed,
    evidence,
    export,
    graph,
    imports,
    intervene,
    jobs,
    keys,
    labels,
    neuronpedia,
    planning,
    remote,
    saes,
    service,
    train,
)
from labeler.cli.app import app, main

__all__ = [
    "activations",
    "app",
    "check",
    "diff",
    "embed",
    "evidence",
    "export",
    "graph",
    "imports",
    "intervene",
    "jobs",
    "keys",
    "labels",
    "main",
    "neuronpedia",
    "planning",
    "remote",
    "saes",
    "service",
    "train",
]
