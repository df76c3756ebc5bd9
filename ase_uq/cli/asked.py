"""What `--observable` asks of a log: a name that it has, or a definition to work out from stored positions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ase_uq.errors import InputError

if TYPE_CHECKING:
    from ase_uq.observables import Observable

_OF_EVERY_LOG = ("energy", "heat_capacity")


def asked_of(log: Path, texts: Sequence[str]) -> tuple[list[str], dict[str, Observable]]:
    """Return the names among the texts that the log knows, and the observables that the others define, by name.

    What was logged comes first: a run logs `rdf:O-O` under this very name.

    Raises
    ------
    InputError
        For a text that is neither, a definition that the structure does not allow, or a log without positions.
    """
    from ase_uq.log.columns import OBSERVABLES, key_of, name_of
    from ase_uq.log.parts import first_structure
    from ase_uq.log.reader import open_log
    from ase_uq.observables import parse_observables
    from ase_uq.observables.parse import KINDS

    with open_log(log, read=()) as opened:
        known = [text for text in texts if text in _OF_EVERY_LOG or key_of(text) in opened.datasets]
        has = [name_of(key) for key in opened.datasets if key.startswith(OBSERVABLES)]
    definitions = [text for text in texts if text not in known]
    for text in definitions:
        if text.rpartition("=")[2].partition(":")[0] not in KINDS:
            raise InputError(
                f"`observable` must be in the log, or be defined as in rdf:O-O or distance:0,1, got {text!r}; "
                f"{log} has: {', '.join(has) or 'none'}."
            )
    return known, parse_observables(definitions, first_structure(log)) if definitions else {}
