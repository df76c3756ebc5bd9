"""Messages for Python, as the shell says them."""

from pathlib import Path
from typing import Annotated

import pytest
import typer

from ase_uq.cli import app
from ase_uq.cli.shell_names import Means, names_at_shell, speaks_shell, spoken, translated
from ase_uq.errors import InputError, RunError


def command(
    data: Annotated[Path, typer.Argument(metavar="DATA")],
    go_on: Annotated[bool, typer.Option("--restart"), Means("append", "bias=False", positions="md --store")] = False,
    skip: Annotated[float, typer.Option("--skip"), Means("skip_fs")] = 0.0,
    n_members: Annotated[int, typer.Option()] = 4,
    shown: Annotated[bool, typer.Option("--shown/--hidden")] = True,
) -> None:
    """Say something that names an argument."""
    raise InputError(f"`{data}` must be positive, got {skip_or(skip)}.")


def skip_or(value):
    return value


def test_the_table_follows_from_the_parameters():
    assert names_at_shell(command) == {
        "data": "DATA",
        "go_on": "--restart",
        "append": "--restart",
        "bias=False": "--restart",
        "positions": "md --store",
        "skip": "--skip",
        "skip_fs": "--skip",
        "n_members": "--n-members",
        "shown": "--shown",
    }


@pytest.mark.parametrize(
    ("for_python", "at_the_shell"),
    [
        ("`skip_fs` must be less than 10, got 20.0; take less.", "`--skip` must be less than 10, got 20.0; take less."),
        ("pass append=True, or skip_fs=5.0.", "pass --restart, or --skip 5.0."),
        ("`n_members['a']` is too small.", "`--n-members` 'a' is too small."),
        ("the skip of frames is no `other` name", "the skip of frames is no `other` name"),
        ("a path such as runs/skip_fs=old stays", "a path such as runs/skip_fs=old stays"),
        ("skip_fs=1.h5 exists, skip=1/run.h5 too", "skip_fs=1.h5 exists, skip=1/run.h5 too"),
        ("with bias=False the weights go", "with --restart the weights go"),
        ("`skip`, `skip_fs` must agree", "`--skip` must agree"),
    ],
)
def test_arguments_are_told_by_backticks_or_values(for_python, at_the_shell):
    assert translated(for_python, names_at_shell(command)) == at_the_shell


@pytest.mark.parametrize("kind", [InputError, RunError])
def test_errors_and_warnings_of_a_command_are_translated(kind):
    said = []

    def run(skip: Annotated[float, typer.Option("--skip"), Means("skip_fs")] = 0.0) -> None:
        said.append(spoken("skip_fs=3.0 is long"))
        raise kind("`skip_fs` must be positive")

    with pytest.raises(kind, match="^`--skip` must be positive$"):
        speaks_shell(run)()
    assert said == ["--skip 3.0 is long"]
    assert spoken("`skip_fs`") == "`skip_fs`"  # for Python, outside of a command


def test_every_command_speaks_shell():
    for each in app.registered_commands:
        assert names_at_shell(each.callback), each.name
