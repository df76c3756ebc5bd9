"""The exceptions of the package: bad input, work that failed, and work that was interrupted."""

from __future__ import annotations


class InputError(ValueError):
    """A user's mistake, told in one sentence: which argument, the rule, the value, the cure.

    The command line prints the sentence and exits with code 2; in Python it is an ordinary `ValueError`.
    """


class NotFiniteError(InputError):
    """A calculator that returned a number which is not finite: of a structure that was given, the user's mistake.

    In the middle of a run it is the end of the run, see `ase_uq.dynamics.watch`.
    """


class RunError(RuntimeError):
    """Work that began well and could not be finished, such as a training that diverged; exit code 1."""


class Interrupted(KeyboardInterrupt):
    """Work that the user stopped (Ctrl-C); the message says what is kept and how to go on. Exit code 130."""
