"""`Gate`: one check of a result or of a run, a number with its limit and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

YES_OR_NO = "yes/no"  # unit of a value that is 1 or 0


@dataclass(frozen=True, slots=True)
class Gate:
    """One check of a result.

    Attributes
    ----------
    name
        What is looked at.
    value, limit, unit
        What was found, and the limit it has to keep; the unit "yes/no" stands for 1 and 0.
    at_least
        Whether the limit is the smallest value that passes; else it is the largest.
    failed
        Whether the result should not be believed as it stands.
    sentence
        What that means, and the cure.
    """

    name: str
    value: float
    limit: float
    unit: str
    at_least: bool
    failed: bool
    sentence: str

    @property
    def severity(self) -> float:
        """How far beyond its limit the value lies, as a ratio."""
        above, below = (self.limit, self.value) if self.at_least else (self.value, self.limit)
        return above / below if below > 0 else np.inf


def explosion_gate(found: str) -> Gate:
    """Check of the run itself; `found` is what shows that it has exploded, "" for a sound one."""
    sentence = (
        f"the run exploded: {found}; averages over it mean nothing, so run again, with a shorter time step or from a "
        "better start, or look for a hole in the potential (a run that was heated on purpose needs an average for each "
        "temperature)."
    )
    return Gate("run that exploded", float(bool(found)), 0.0, YES_OR_NO, False, bool(found), sentence)


def sentences(gates: Sequence[Gate]) -> tuple[str, ...]:
    """Sentences of the gates that failed."""
    return tuple(gate.sentence for gate in gates if gate.failed)
