"""One fault: what is done to a run or a file, and what has to come of it.

Every family of faults has a file `<family>_faults.py` beside this one, with a list `FAULTS`, and is run whole by
`test_<family>_faults.py`. `python -m tests.faults` prints the table of all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and its outcome.

    Attributes
    ----------
    name
        What goes wrong, in words.
    kind
        The family: "log", "run", "training", "calculator", "labels", "model".
    inject
        Does it, in an empty folder, and returns what happened: one sentence that the table shows. It raises
        `AssertionError` when data were lost or a number is silently wrong.
    expected
        A regular expression that the sentence has to match.
    lost
        What a user has lost by it.
    """

    name: str
    kind: str
    inject: Callable[[Path], str]
    expected: str
    lost: str = "nothing"
