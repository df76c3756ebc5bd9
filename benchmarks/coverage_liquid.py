"""A liquid of Lennard-Jones atoms under a family of pair potentials, every truth by a run of its own.

============  =========================================================================================
symbol        meaning
============  =========================================================================================
u_12, u_6     r^-12 and r^-6 minus their tangents in r^2 at the cut-off, where force and energy so end
R, Q          sums of u_12 and u_6 over pairs; an energy is A R - B Q, linear in both
A, B          4 and 4 for argon; those of a member are Gaussian about it
============  =========================================================================================

Units are epsilon, sigma and tau = sigma sqrt(m/epsilon), with epsilon = `EPSILON` eV. All runs advance together as one
array (runs, 3, atoms), in coordinates of the cubic cell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ase.build import bulk
from ase.units import kB
from coverage_trial import METHODS, Array, Comparison, Row, Run, Trial, Truth, attempt, compare, joined
from torch import Tensor

from ase_uq.reweighting.statistics import sampling_error

N_ATOMS, DENSITY, CUTOFF = 108, 0.8, 2.5
LENGTH = (N_ATOMS / DENSITY) ** (1.0 / 3.0)
EPSILON, TEMPERATURE = 0.0104, 0.95  # eV, and in epsilon/kB
TEMPERATURE_K = TEMPERATURE * EPSILON / kB
ARGON, SPREAD, N_MEMBERS = np.array([4.0, 4.0]), 0.02, 8
TIMESTEP, FRICTION, STRIDE = 0.008, 1.0, 10  # tau, 1/tau, steps from frame to frame
MELTING, MELTING_STEPS, EQUILIBRATION_STEPS = 3.0, 500, 2000  # epsilon/kB: runs begin in a crystal
AT_ONCE = 12  # runs whose pairs fit the cache
BIN_WIDTH, BINS = 0.05, 50  # sigma
PEAK_TO_MINIMUM = (20, 21, 22, 24, 27, 31)  # bins of g(r) that are observables


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of runs side by side: R and Q (T, runs, 2), virial pressure (T, runs), g(r) (T, runs, `BINS`)."""

    sums: Array
    virial: Array
    rdf: Array

    def observables(self, run: int) -> dict[str, Array]:
        """Return series (T,) of one run: R and Q of an atom, virial pressure in epsilon/sigma^3, bins of g(r)."""
        repulsion, attraction = self.sums[:, run].T / N_ATOMS
        rdf = {f"g({centre(k):.3f})": self.rdf[:, run, k] for k in PEAK_TO_MINIMUM}
        return {"R": repulsion, "Q": attraction, "virial": self.virial[:, run], **rdf}

    def bins(self, run: int) -> dict[str, Array]:
        """Return the series (T,) of every bin of g(r) that any run has found pairs in."""
        filled = np.flatnonzero(self.rdf.any(axis=(0, 1)))
        return {f"{centre(k):.3f}": self.rdf[:, run, k] for k in filled}


def centre(k: int) -> float:
    """Distance in the middle of a bin of g(r), sigma."""
    return (k + 0.5) * BIN_WIDTH


@dataclass(frozen=True, slots=True)
class Liquid:
    """Rows, and the members of the first committee compared one by one: the observables, and all of g(r)."""

    rows: list[Row]
    observables: Comparison
    rdf: Comparison


def coverage(*, repeats: int, steps: int, replicas: int, tell: Callable[[str], None]) -> Liquid:
    """Draw committees and truths and run them all; members of the first committee run too, `replicas` times each."""
    drawn = ARGON * (1.0 + SPREAD * np.random.default_rng(3).normal(size=(repeats, N_MEMBERS + 1, 2)))
    drivers, truths = drawn[:, :-1].mean(axis=1), drawn[:, -1]
    alone = np.repeat(drawn[0, :-1], replicas, axis=0)
    frames = simulate(np.concatenate([drivers, truths, alone]), steps=steps, seed=4, tell=tell)
    runs = [_run(frames.sums[:, k], drivers[k], drawn[k, :-1], truths[k]) for k in range(repeats)]
    trials: dict[tuple[str, str], list[Trial]] = {}
    for k, run in enumerate(runs):
        true = frames.observables(repeats + k)
        for name, series in frames.observables(k).items():
            truth = Truth(float(true[name].mean()), sampling_error(true[name]).std)
            for method in METHODS:
                trials.setdefault((name, method), []).append(attempt(series, run, truth, method))
    members = [range(2 * repeats + i * replicas, 2 * repeats + (i + 1) * replicas) for i in range(N_MEMBERS)]
    observables, rdf = (
        compare(series(0), runs[0], [joined([series(k) for k in member]) for member in members])
        for series in (frames.observables, frames.bins)
    )
    return Liquid([Row.of("liquid", *key, found) for key, found in trials.items()], observables, rdf)


def _run(sums: Array, driver: Array, members: Array, truth: Array) -> Run:
    # An energy is A R - B Q.
    energies = (EPSILON * (sums @ (part * (1.0, -1.0)).T) for part in (driver, members, truth))
    return Run(*energies, TEMPERATURE_K)


def simulate(coefficients: Array, *, steps: int, seed: int, tell: Callable[[str], None]) -> Frames:
    """Run Langevin dynamics (BAOAB) under each pair A, B (runs, 2); frames are those after equilibration."""
    random = torch.Generator().manual_seed(seed)
    a, b = (torch.from_numpy(column).float()[:, None, None] for column in coefficients.T)
    lattice = (bulk("Ar", "fcc", a=1.0, cubic=True) * (3, 3, 3)).get_scaled_positions()
    x = torch.from_numpy(lattice.T).float().repeat(len(coefficients), 1, 1)
    v, acceleration = torch.zeros_like(x), torch.zeros_like(x)
    kept = float(np.exp(-FRICTION * TIMESTEP))
    frames = []
    for step in range(-MELTING_STEPS - EQUILIBRATION_STEPS, steps):
        temperature = MELTING if step < -EQUILIBRATION_STEPS else TEMPERATURE
        noise = float(np.sqrt((1.0 - kept**2) * temperature)) / LENGTH
        v += 0.5 * TIMESTEP * acceleration
        x += 0.5 * TIMESTEP * v
        v = kept * v + noise * torch.randn(v.shape, generator=random)
        x += 0.5 * TIMESTEP * v
        x -= x.floor()
        acceleration = _by_parts(_accelerations, x, a, b)[0]
        v += 0.5 * TIMESTEP * acceleration
        if step >= 0 and (step + 1) % STRIDE == 0:
            frames.append([part.numpy() for part in _by_parts(_frame, x)])
        if (step + 1) % 2000 == 0:
            tell(f"liquid: step {step + 1} of {steps}")
    return Frames(*(np.stack(parts) for parts in zip(*frames, strict=True)))


def _by_parts(function: Callable[..., tuple[Tensor, ...]], *arguments: Tensor) -> list[Tensor]:
    parts = [function(*part) for part in zip(*(tensor.split(AT_ONCE) for tensor in arguments), strict=True)]
    return [torch.cat(found) for found in zip(*parts, strict=True)]


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    # Every pair stands there twice: that costs less than the gathers that a list of pairs needs.
    vectors = x[:, :, None, :] - x[:, :, :, None]
    vectors -= torch.round(vectors)
    squares = vectors[:, 0] * vectors[:, 0]
    squares.addcmul_(vectors[:, 1], vectors[:, 1]).addcmul_(vectors[:, 2], vectors[:, 2]).mul_(LENGTH**2)
    squares.diagonal(dim1=1, dim2=2).fill_(LENGTH**2)
    return vectors, squares


def _accelerations(x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor]:
    vectors, squares = _pairs(x)
    # At the cut-off the derivative vanishes: what is farther is moved there.
    inverse = squares.clamp_(max=CUTOFF**2).reciprocal_()
    cube = inverse * inverse * inverse
    slope = (12.0 * a) * cube
    slope.sub_(6.0 * b).mul_(cube).mul_(inverse).sub_(12.0 * a * CUTOFF**-14 - 6.0 * b * CUTOFF**-8)
    vectors *= slope[:, None]
    return (-vectors.sum(dim=-1),)


def _frame(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    squares = _pairs(x)[1]
    bins = (squares.sqrt() * (1.0 / BIN_WIDTH)).long().clamp_(max=BINS)
    bins += (BINS + 1) * torch.arange(len(x))[:, None, None]
    counts = torch.bincount(bins.view(-1), minlength=len(x) * (BINS + 1)).view(len(x), -1)[:, :BINS]
    edges = BIN_WIDTH * torch.arange(BINS + 1, dtype=torch.float64)
    rdf = counts / (N_ATOMS * DENSITY * (4.0 / 3.0) * np.pi * edges.pow(3).diff())
    within = squares.clamp_(max=CUTOFF**2)
    cube = within.reciprocal().pow_(3)
    moments = [term.sum(dim=(1, 2), dtype=torch.float64) for term in (cube * cube, cube, within)]
    sums, derivatives = [], []
    for moment, power in zip(moments, (6, 3), strict=False):
        slope = power * CUTOFF ** (-2 * power - 2)
        beyond = N_ATOMS**2 * (CUTOFF ** (-2 * power) + slope * CUTOFF**2)
        sums.append(0.5 * (moment - beyond + slope * moments[2]))
        derivatives.append(slope * moments[2] - power * moment)
    # Minus the sum over pairs of r dE/dr over three volumes; r d/dr = 2 s d/ds, and every pair is there twice.
    virial = -(ARGON[0] * derivatives[0] - ARGON[1] * derivatives[1]) / (3.0 * LENGTH**3)
    return torch.stack(sums, dim=1), virial, rdf.float()
