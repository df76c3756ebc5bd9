"""The command line: one file a command, listed here."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from ase_uq.cli import calibrate, demo, evaluate, md, report, rerun, reweight, train
from ase_uq.errors import InputError, RunError


class _Commands(TyperGroup):
    """The commands; an interrupt in one of them, which typer would end without a word, says what is kept."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            _leave(str(stopped) or "interrupted; what was kept goes on with --resume (train) or --restart (md)", 130)


app = typer.Typer(
    cls=_Commands,
    help="Uncertainty for molecular dynamics in ASE: train, wrap, run, analyse. Units: eV, Å, fs, K.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (demo, train, evaluate, calibrate, md, rerun, reweight, report):
    app.command(name=command.NAME)(command.run)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("ase-uq"))
        raise typer.Exit


def main() -> None:
    """Run a command; a mistake in the input is one line and exit code 2, a failed run one line and exit code 1."""
    try:
        app()
    except InputError as e:
        _leave(str(e), 2)
    except RunError as e:
        _leave(str(e), 1)
    except BrokenPipeError:
        # The reader of a pipe (head, say) has seen enough.
        sys.stderr.close()
        sys.exit(0)


def _leave(message: str, code: int) -> NoReturn:
    print(f"ase-uq: {' '.join(message.split())}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
