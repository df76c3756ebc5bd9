"""Runs made of random numbers with known statistics, for the tests of the report."""

from pathlib import Path

import numpy as np
from ase.units import kB
from scipy.signal import lfilter

from ase_uq.log.reader import RunLog


def ar1(rng, n, correlation):
    """A Gaussian series of unit variance whose neighbours correlate by so much."""
    noise = rng.normal(size=n) * np.sqrt(1 - correlation**2)
    noise[:1] = rng.normal(size=min(n, 1))
    return lfilter([1.0], [1.0, -correlation], noise)


def synthetic_run(n_frames=4000, *, n_members=6, baseline=True, std_h=0.4, seed=0, observables=None, **attributes):
    """A run at 300 K: a calm observable, one that follows the members' disagreement, an optional weight with dips."""
    rng = np.random.default_rng(seed)
    kelvin, n_atoms = 300.0, 24
    slow, fast = ar1(rng, n_frames, 0.97), ar1(rng, n_frames, 0.8)
    shares = np.linspace(-1.0, 1.0, n_members)
    deviations = std_h * kB * kelvin * (shares * slow[:, None] + 0.4 * rng.normal(size=(n_frames, n_members)))
    deviations -= deviations.mean(axis=1, keepdims=True)
    energy = -812.4 + 1.5 * n_atoms * kB * kelvin * (1 + 0.2 * fast) - 0.8 * np.exp(-np.arange(n_frames) / 60.0)
    temperature = kelvin * (1 + np.sqrt(2 / (3 * n_atoms)) * ar1(rng, n_frames, 0.9))
    step = 10 * np.arange(n_frames)
    dips = np.exp(0.9 * np.maximum(ar1(rng, n_frames, 0.99) - 1.2, 0) * 4)
    force_std = 0.035 * dips * np.exp(0.15 * ar1(rng, n_frames, 0.7))
    energy_std = deviations.std(axis=1, ddof=1) * dips
    root = {
        "temperature_K": kelvin,
        "timestep_fs": 0.5,
        "ensemble": "nvt",
        "numbers": np.array([7, 1, 1, 1] * 6, dtype=np.uint8),
        "n_members": n_members,
        "ddof": 1,
        "alpha": 1.84,
        "model_hash": "9f2c4e17ab03d5581c6e",
        "driver": "weighted_baseline" if baseline else "model",
        "format_version": 1,
        "ase_uq_version": "0.1.0",
        "ase_version": "3.29.0",
    } | ({"sigma_baseline": 0.2} if baseline else {})
    if observables is None:
        observables = {
            "bond_length": 1.0172 + 0.021 * ar1(rng, n_frames, 0.6) + 0.002 * slow,
            "umbrella_angle": 112.3 + 3.0 * (0.7 * slow + 0.5 * fast) + 0.8 * (slow**2 - 1),
        }
    units = {"bond_length": "Å", "umbrella_angle": "°"}
    return RunLog(
        path=Path("run.h5"),
        attributes=root | attributes,
        step=step,
        time_fs=0.5 * step.astype(float),
        energy=energy,
        energy_var=energy_std**2,
        energy_members=energy[:, None] + deviations,
        energy_members_minus_energy=deviations,
        kinetic_energy=1.5 * n_atoms * kB * temperature,
        temperature_K=temperature,
        volume=np.full(n_frames, np.nan),
        force_std_max=force_std,
        force_std_mean=0.4 * force_std,
        weight=0.04 / (0.04 + energy_std**2 * 30) if baseline else None,
        energy_baseline=energy + 0.3 if baseline else None,
        observables=dict(observables),
        units={name: units.get(name, "") for name in observables},
    )
