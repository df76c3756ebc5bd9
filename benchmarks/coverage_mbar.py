"""Umbrella windows joined by MBAR: sampling errors, which have the error of the free energies in them, against repeats.

A double well along x, its barrier 6 kT, sampled in harmonic windows; frames of a window are independent or correlated
by way of their ranks, which leaves their density exact. Averages for the well without windows are known by quadrature.
"""

from __future__ import annotations

import numpy as np
from ase.units import kB
from coverage_trial import Array, Bar, correlated

from ase_uq import reweight
from ase_uq.reweighting.multistate import interleaved, mbar_log_weights

TEMPERATURE_K = 300.0
KT = kB * TEMPERATURE_K
GRID = np.linspace(-3.0, 3.0, 6001)
WELLS = 6.0 * (GRID**2 - 1.0) ** 2 + 0.4 * GRID  # kT
OBSERVABLES = {"x > 0": lambda x: 1.0 * (x > 0), "x": lambda x: x, "x^2": lambda x: x**2}
CASES = (
    (15, 40.0, 300, 0.0),  # windows, stiffness in kT, frames of each, memory of one frame for the last
    (9, 40.0, 1000, 0.0),
    (5, 25.0, 1000, 0.0),
    (6, 15.0, 800, 0.8),
    (4, 8.0, 3000, 0.95),
)
_TILTS = 0.1 * np.array([-1.0, -0.5, 0.5, 1.0])


def coverage(*, repeats: int) -> list[Bar]:
    """Return the rows of all cases."""
    rows = []
    for windows, stiffness, frames, memory in CASES:
        centres = np.linspace(-1.3, 1.3, windows)
        means: dict[str, list[float]] = {name: [] for name in OBSERVABLES}
        results: dict[str, list[object]] = {name: [] for name in OBSERVABLES}
        for seed in range(repeats):
            x = _sample(np.random.default_rng(seed), centres, stiffness, frames, memory)
            target = np.interp(x, GRID, WELLS)
            n = [frames] * windows
            logs = mbar_log_weights(target + 0.5 * stiffness * (x - centres[:, None]) ** 2, n, target)
            order = interleaved(n)
            x, target, logs = x[order], target[order], logs[order]
            for name, function in OBSERVABLES.items():
                means[name].append(float(np.average(function(x), weights=np.exp(logs))))
                results[name].append(
                    reweight(
                        function(x),
                        energy_members=KT * (target[:, None] + x[:, None] * _TILTS),
                        energy_reference=KT * target,
                        temperature_K=TEMPERATURE_K,
                        log_weights=logs,
                    )
                )
        density = np.exp(WELLS.min() - WELLS)
        case = f"MBAR, {windows} windows of {stiffness:g} kT, {frames} frames, memory {memory:g}"
        for name, function in OBSERVABLES.items():
            exact = float(np.average(function(GRID), weights=density))
            rows.append(Bar.of(f"{case}: {name}", np.array(means[name]), results[name], exact))
    return rows


def _sample(rng: np.random.Generator, centres: Array, stiffness: float, frames: int, memory: float) -> Array:
    energies = [WELLS + 0.5 * stiffness * (GRID - centre) ** 2 for centre in centres]
    return np.concatenate([correlated(rng, GRID, energy, frames, memory) for energy in energies])
