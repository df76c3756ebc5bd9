"""What tells frames from other frames: a hash of structure and labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from ase_uq.structures.frames import Frame


def frame_hash(frame: Frame) -> str:
    """Return the hash of all that a training sees of a frame: structure, labels and their weights, bit by bit."""
    atoms = frame.atoms
    digest = hashlib.sha256()
    labels = (frame.energy, frame.forces, frame.stress, frame.weights)
    for part in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, *labels):
        # Without a label is not the same as with one of zero.
        array = np.zeros(0) if part is None else np.asarray(part, dtype=np.float64)
        digest.update(f"{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def frames_hash(frames: Iterable[Frame], *, ordered: bool = True) -> str:
    """Return the hash of frames, by default in their order: trainings go through them by their places."""
    found = [frame_hash(frame) for frame in frames]
    return hashlib.sha256(" ".join(found if ordered else sorted(found)).encode()).hexdigest()
