"""States of trainings in files: with a hash of their own, so that a damaged one is not taken for another.

Each says which part of which training it is of, by its name and by the hash of the identity beside it: a file that was
copied from another folder, or renamed, is refused.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from ase_uq.errors import InputError, RunError
from ase_uq.files import replacing

_MAGIC = b"ase_uq training state 1\n"
_ARCHIVE = b"PK\x03\x04"  # what torch writes
# The file of the identity, in the same folder, and the entry of a state that says what it is of.
IDENTITY, _OF = "training.json", "of"
_SIZE = hashlib.sha256().digest_size


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain numbers; the file appears whole or not at all.

    Raises
    ------
    RunError
        If it cannot be written, on a full disk, say.
    """
    buffer = io.BytesIO()
    torch.save({**state, _OF: _training_of(path)}, buffer)
    content = buffer.getvalue()
    try:
        with replacing(path) as aside, aside.open("wb") as file:
            file.write(_MAGIC + hashlib.sha256(content).digest())
            file.write(content)
    except OSError as e:
        raise RunError(
            f"the training state `{path}` could not be written ({e.strerror or e}); the last one that was is kept: "
            "make room, and go on with resume=True."
        ) from e


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises
    ------
    InputError
        For a file that is truncated, damaged, of another kind, of an earlier version, or of another training.
    """
    cure = "delete it to train that part anew, and go on with resume=True"
    try:
        content = path.read_bytes()
    except OSError as e:
        raise InputError(f"the training state `{path}` could not be read ({e.strerror or e}); {cure}.") from e
    start = len(_MAGIC) + _SIZE
    if content.startswith(_ARCHIVE):
        raise InputError(f"the training state `{path}` is of an earlier version; {cure}.")
    if not content.startswith(_MAGIC):
        raise InputError(f"the training state `{path}` could not be read, it is damaged; {cure}.")
    if hashlib.sha256(content[start:]).digest() != content[len(_MAGIC) : start]:
        raise InputError(
            f"the training state `{path}` could not be read, it is damaged and does not match its own hash; {cure}."
        )
    state: dict[str, Any] = torch.load(io.BytesIO(content[start:]), weights_only=True, map_location="cpu")
    here = _training_of(path)
    if state.pop(_OF, here) != here:  # earlier versions did not say
        raise InputError(f"the training state `{path}` is of another training, or of another part of this one; {cure}.")
    return state


def _training_of(path: Path) -> str:
    beside = path.with_name(IDENTITY)
    identity = beside.read_bytes() if beside.is_file() else b""
    return f"{path.stem} {hashlib.sha256(identity).hexdigest()}"
