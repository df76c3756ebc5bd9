"""Energies with a constant per member and composition, or in the labels, as large as 20 times what varies.

They cancel in every force and average, and alpha and the intervals of energies without constants must not see them.
In each repeat members, labels or both have constants: of every composition, of which there are 5 or 40 in 200 frames,
or of the elements, where hardly any composition comes twice. Pinned members are 8 heads about their mean.
"""

from __future__ import annotations

import numpy as np
from coverage_members import Frames, Members, rows, trial
from coverage_trial import Array, Fit, FitTrial

WAVES = 40
TIMES = 0.0, 1.0, 5.0, 20.0  # the fluctuation within a composition
CONSTANTS = {"5 compositions": 5, "40 compositions": 40, "of elements": None}
MEMBERS = {"8 pinned": (8, True), "4 independent": (4, False), "8 independent": (8, False)}
ALPHAS = {True: (0.15, 2.5), False: (0.6, 2.5)}  # smaller ones drown in the error of a mean that is not pinned
NUMBERS = 1, 6, 8
ZEROS = -14.0, -1030.0, -2040.0  # eV, of an atom of each


def coverage(*, repeats: int, frames: int) -> list[Fit]:
    """Return the rows of all cases; half of the frames calibrate."""
    found = []
    for members in MEMBERS:
        for constants in CONSTANTS:
            for times in TIMES:
                trials = [_trial(seed, members, constants, times, frames) for seed in range(repeats)]
                # Forces have no constants.
                found += rows(f"constants {times:g} x, {constants}: {members}", trials)[:1]
    return found


def _trial(seed: int, members: str, constants: str, times: float, n_frames: int) -> dict[str, FitTrial]:
    rng = np.random.default_rng(seed)
    (n_members, pinned), n_compositions = MEMBERS[members], CONSTANTS[constants]
    compositions = 1 + np.array(np.unravel_index(rng.permutation(6**3), (6, 6, 6))).T[: n_compositions or n_frames]
    labels = rng.permutation(np.resize(np.arange(len(compositions)), n_frames))
    counts = compositions[labels]
    frames = Frames.random(rng, [f"H{h}C{c}O{o}" for h, c, o in counts], waves=WAVES)
    alpha = float(np.exp(rng.uniform(*np.log(ALPHAS[pinned]))))
    # Row 0 is the truth.
    drawn = rng.normal(size=(n_members + 1, frames.features.shape[1]))
    size = times * _fluctuation(drawn @ frames.features.T, counts) * np.ones(n_members + 1)
    who = rng.integers(3)
    size[slice(1, None) if who == 0 else slice(0, 1) if who == 1 else slice(0, 0)] = 0.0
    drawn[1:] -= drawn[1:].mean(axis=0) if pinned else 0.0
    drawn[0] *= alpha
    weights = rng.normal(size=drawn.shape[1]) + drawn
    energies = weights @ frames.features.T + counts @ np.array(ZEROS)
    energies += (
        size[:, None] * _constants(rng, n_members + 1, compositions, by_element=n_compositions is None)[:, labels]
    )
    forces = frames.forces(weights)
    model = Members(energies[1:], [each[1:] for each in forces], {"mean_share": 0.0 if pinned else 1.0 / n_members})
    return trial(model, frames.labelled(energies[0], [each[0] for each in forces], [""] * n_frames), alpha)


def _constants(rng: np.random.Generator, n: int, compositions: Array, *, by_element: bool) -> Array:
    """(n, K) of size one: of each composition, or of each element times its atoms."""
    if not by_element:
        return rng.normal(size=(n, len(compositions)))
    return np.asarray(rng.normal(size=(n, len(NUMBERS))) @ compositions.T / np.sqrt((compositions**2).sum(1).mean()))


def _fluctuation(energies: Array, counts: Array) -> float:
    """Root mean square of energies (n, S) without constants of elements."""
    left = energies.T - counts @ np.linalg.lstsq(counts.astype(float), energies.T, rcond=None)[0]
    return float(np.sqrt((left**2).mean()))
