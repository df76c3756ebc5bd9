"""Hashes of frames: equal where nothing differs, different where anything does."""

from dataclasses import replace

import numpy as np
from ase.build import bulk

from ase_uq.structures.fingerprint import frame_hash, frames_hash
from ase_uq.training import Frame


def test_whatever_differs_shows():
    atoms = bulk("Cu", cubic=True)
    frame = Frame(atoms, -1.0, np.zeros((4, 3)), np.zeros(6), "a")
    assert frame_hash(frame) == frame_hash(replace(frame, atoms=atoms.copy(), group="b", notes=("said",)))
    moved, other, cut = atoms.copy(), atoms.copy(), atoms.copy()
    moved.positions[1, 2] += 1e-12
    other.symbols[0] = "Au"
    cut.pbc = [True, True, False]
    changed = [
        *(replace(frame, atoms=each) for each in (moved, other, cut)),
        replace(frame, energy=-1.0 - 1e-12),
        replace(frame, forces=np.full((4, 3), 1e-9)),
        replace(frame, forces=None),
        replace(frame, stress=None),
        replace(frame, weights=(1.0, 2.0, 1.0)),
    ]
    assert len({frame_hash(each) for each in (frame, *changed)}) == 9
    assert frames_hash([frame, changed[0]]) != frames_hash([changed[0], frame])
    assert frames_hash([frame, changed[0]], ordered=False) == frames_hash([changed[0], frame], ordered=False)
