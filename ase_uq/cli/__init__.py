"""The command line: one file a command, listed here."""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
from typing import Annotated, NoReturn

import typer

from ase_uq.cli import calibrate, demo, evaluate, md, report, rerun, reweight, train
from ase_uq.cli.shell_names import StoppedError, speaks_shell
from ase_uq.cli.signals import ended_like_interrupted
from ase_uq.cli.usage import USAGE_ERROR, sentence_of
from ase_uq.errors import InputError, RunError

_INTERRUPTED = 130

app = typer.Typer(
    help="Uncertainty for molecular dynamics in ASE: train, wrap, run, analyse. Units: eV, Å, fs, K.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (demo, train, evaluate, calibrate, md, rerun, reweight, report):
    app.command(name=command.NAME)(speaks_shell(command.run))


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("ase-uq"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def main() -> None:
    """Run a command; a mistake in the input is one line and exit code 2, a failed run one line and exit code 1."""
    _say_anything()
    try:
        with ended_like_interrupted():
            code = app(standalone_mode=False)
    except USAGE_ERROR as e:
        _leave(sentence_of(e), 2)
    except InputError as e:
        _leave(str(e), 2)
    except RunError as e:
        _leave(str(e), 1)
    except StoppedError as e:
        _leave(str(e), _INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        _leave("interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe (head, say) has seen enough.
        sys.stderr.close()
        sys.exit(0)
    except OSError as e:
        # A full disk, a folder that cannot be written to, wherever it was noticed.
        _leave(f"{_what(e)} could not be read or written: {e.strerror or e}; look after the disk and its rights.", 1)
    if code == _INTERRUPTED:
        # Some versions of the parser take a Ctrl-C for an exit.
        _leave("interrupted", code)
    if isinstance(code, int) and code:
        sys.exit(code)


def _say_anything() -> None:
    """Show what a terminal has no letters for, a name of a file or a ±, by its number; a run must not end by it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _what(error: OSError) -> str:
    return "a file" if error.filename is None else f"`{os.fsdecode(error.filename)}`"


def _leave(message: str, code: int) -> NoReturn:
    if code == _INTERRUPTED:
        # What is left to do is to end; another Ctrl-C would only show where. What is registered last comes first.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    print(f"ase-uq: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
