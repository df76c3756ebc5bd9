"""The command line, run in the process of the tests."""

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest import mock

from ase_uq.cli import main


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def ase_uq(*arguments, cwd):
    """Run a command in this process: importing torch anew for each would take most of the time."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["ase-uq", *map(str, arguments)]),
    ):
        try:
            main()
        except SystemExit as e:
            return Done(e.code or 0, out.getvalue(), err.getvalue())
    return Done(0, out.getvalue(), err.getvalue())


def good(*arguments, cwd):
    done = ase_uq(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done
