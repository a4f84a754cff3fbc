"""The command itself: what all of its words share, and how an error ends it."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from labeler.errors import LabelerError

app = typer.Typer(
    name="labeler",
    help="Label the features of a sparse autoencoder, and say how far to trust each label.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)

_debug = False


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    global _debug
    _debug = debug
    if version:
        from labeler import __version__

        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """The console script: errors for people on stderr, and the exit code that goes with them."""
    try:
        code = app(standalone_mode=False)  # the exit code of a typer.Exit, as click returns it
        sys.exit(code if isinstance(code, int) else 0)
    except LabelerError as error:
        _fail(error, str(error), error.exit_code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("stopped; the same command continues from what is kept", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own usage errors
            typer.echo(f"error: {error.format_message()}", err=True)
            sys.exit(2)
        _fail(
            error,
            f"unexpected {type(error).__name__}: {error} (run again with `labeler --debug ...` for a traceback)",
            1,
        )


def _fail(error: BaseException, message: str, exit_code: int) -> None:
    if _debug:
        import traceback

        traceback.print_exception(error)
    from labeler.terminal import visible

    # It may hold the words of a provider or of a file, which are data.
    typer.echo("\n".join(map(visible, f"error: {message}".split("\n"))), err=True)
    sys.exit(exit_code)
