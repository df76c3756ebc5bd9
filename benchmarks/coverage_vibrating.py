"""Series that oscillate, and hide slow motions under fast ones: sampling errors against independent runs.

=====================  ==================================================================================
symbol                 meaning
=====================  ==================================================================================
AR(2) with tail        sqrt(1 - s) v + sqrt(s) u; v vibrates with a period and a life, u relaxes, both of variance 1
bond                   distance of N-H, a Morse bond under Langevin dynamics, every step of 0.5 fs a frame
umbrella               height in one of two wells, 10 kT deep, likewise
energy                 of the bond
=====================  ==================================================================================

Members follow the observable so weakly that all of the error is sampling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from ase import units
from coverage_trial import Array, Bar
from scipy.signal import lfilter

from ase_uq import reweight

TEMPERATURE_K = 300.0
KT = units.kB * TEMPERATURE_K
TAILS = ((5, 20, 0.03, 60), (12, 60, 0.05, 100), (40, 80, 0.03, 200), (100, 200, 0.03, 400))  # period, life, s, time
FRICTIONS_PER_PS = (2.0, 10.0, 50.0)
_WEAK = 0.05 * np.array([-1.0, -0.5, 0.5, 1.0])


def coverage(*, repeats: int, frames: int) -> list[Bar]:
    """Return the rows of all families; runs are `frames` frames long, and a quarter of that."""
    rows = []
    for name, series, mean in _families(repeats, frames):
        lengths = (frames // 4, frames)
        rows += [_bar(f"{name}, {length} frames", series[:, :length], mean) for length in lengths]
    return rows


def _families(repeats: int, frames: int) -> Iterator[tuple[str, Array, float]]:
    for seed, (period, life, share, time) in enumerate(TAILS):
        rng = np.random.default_rng(seed)
        series = np.sqrt(1.0 - share) * _vibrating(rng, period, life, repeats, frames)
        series += np.sqrt(share) * _relaxing(rng, time, repeats, frames)
        yield f"AR(2) of period {period}, tail of {time}", series, 0.0
    for friction in FRICTIONS_PER_PS:
        bond, energy = _bond(np.random.default_rng(int(friction)), friction, repeats, frames)
        yield f"bond, {friction:g}/ps", bond, float(bond.mean())
        yield f"energy of the bond, {friction:g}/ps", energy, float(energy.mean())
    height = _umbrella(np.random.default_rng(9), 10.0, repeats, frames)
    yield "umbrella, 10/ps", height, float(height.mean())


def _bar(name: str, series: Array, mean: float) -> Bar:
    results = []
    for values in series:
        h = KT * ((values - values.mean()) / values.std())[:, None] * _WEAK
        zero = np.zeros(len(values))
        results.append(reweight(values, energy_members=h, energy_reference=zero, temperature_K=TEMPERATURE_K))
    return Bar.of(name, series.mean(axis=1), results, mean)


def _vibrating(rng: np.random.Generator, period: float, life: float, repeats: int, frames: int) -> Array:
    r, angle = np.exp(-1.0 / life), 2.0 * np.pi / period
    first, second = 2.0 * r * np.cos(angle), -(r**2)
    variance = (1.0 - second) / ((1.0 + second) * ((1.0 - second) ** 2 - first**2))
    noise = rng.normal(size=(repeats, frames + int(20 * life))) / np.sqrt(variance)
    return np.asarray(lfilter([1.0], [1.0, -first, -second], noise, axis=1)[:, -frames:])


def _relaxing(rng: np.random.Generator, time: float, repeats: int, frames: int) -> Array:
    phi = np.exp(-1.0 / time)
    noise = rng.normal(size=(repeats, frames))
    noise[:, 1:] *= np.sqrt(1.0 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise, axis=1))


def _bond(rng: np.random.Generator, friction_per_ps: float, repeats: int, frames: int) -> tuple[Array, Array]:
    """Bond lengths and energies, (repeats, frames), of molecules that tumble freely."""
    depth, steepness, rest = 4.6, 2.1, 1.012
    mass = np.array([14.007, 1.008])[:, None, None]
    x = np.zeros((2, 3, repeats))
    x[1, 2] = rest

    def forces(x: Array) -> tuple[Array, tuple[Array, ...]]:
        d = x[1] - x[0]
        r = np.sqrt((d * d).sum(axis=0))
        e = np.exp(-steepness * (r - rest))
        pull = -2.0 * depth * steepness * (1.0 - e) * e / r * d
        return np.stack([-pull, pull]), (r, depth * (1.0 - e) ** 2)

    bond, energy = _langevin(rng, x, mass, forces, friction_per_ps, frames, 5000)
    return bond, energy


def _umbrella(rng: np.random.Generator, friction_per_ps: float, repeats: int, frames: int) -> Array:
    """Heights in Å, (repeats, frames)."""
    barrier, height, mass = 10.0 * KT, 0.38, np.array(2.5)

    def forces(z: Array) -> tuple[Array, tuple[Array, ...]]:
        s = z / height
        return -4.0 * barrier / height * s * (s * s - 1.0), (z.copy(),)

    return _langevin(rng, np.full(repeats, height), mass, forces, friction_per_ps, frames, 5000)[0]


def _langevin(
    rng: np.random.Generator,
    x: Array,
    mass: Array,
    forces: Callable[[Array], tuple[Array, tuple[Array, ...]]],
    friction_per_ps: float,
    frames: int,
    equilibration: int,
) -> list[Array]:
    """Series (repeats, frames) of what `forces` reports beside the forces, every 0.5 fs."""
    dt = 0.5 * units.fs
    kept = np.exp(-friction_per_ps * 0.5e-3)
    kick = np.sqrt((1.0 - kept**2) * mass * KT)
    p = rng.normal(size=x.shape) * np.sqrt(mass * KT)
    f, seen = forces(x)
    series = [np.empty((frames, len(values))) for values in seen]
    for step in range(-equilibration, frames):
        p += 0.5 * dt * f
        x = x + 0.5 * dt * p / mass
        p = kept * p + kick * rng.normal(size=x.shape)
        x = x + 0.5 * dt * p / mass
        f, seen = forces(x)
        p += 0.5 * dt * f
        if step >= 0:
            for row, values in zip(series, seen, strict=True):
                row[step] = values
    return [row.T for row in series]
