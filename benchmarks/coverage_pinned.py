"""Members that are centred on their mean by construction: alpha is the ratio of errors to spread, with no 1/M.

=============  ========================================================================================
kind           how its members deviate
=============  ========================================================================================
LLPR           the covariance of weights that random frames determine, by M > P members exactly
shallow        M heads drawn at random, centred on their mean
BLIP           16 sets of weights, each switched off with a probability of its own, centred on the mean
=============  ========================================================================================

The truth is one more draw of the same kind, not centred, times an alpha between 0.15 and 2.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from coverage_members import Frames, Members, rows, trial
from coverage_trial import Array, Fit, FitTrial

from ase_uq.models.llpr import posterior_covariance, posterior_members

FORMULAS = ("H2O", "H4O2", "H6O3")
ALPHAS = 0.15, 2.5
Draw = Callable[[np.random.Generator], tuple[Array, Array, float]]
"""Deviations of members (M, P), of the truth (P,), and the degrees of freedom of the members."""


def coverage(*, repeats: int, frames: int) -> list[Fit]:
    """Return the rows of all kinds; half of the frames calibrate."""
    kinds: Mapping[str, tuple[int, Draw]] = {
        "LLPR, exact covariance": (30, lambda rng: llpr(rng, 60, 0.5)),
        "LLPR, few directions": (16, lambda rng: llpr(rng, 32, 1.0)),
        "shallow, 4 heads": (40, lambda rng: shallow(rng, 80, 4)),
        "shallow, 8 heads": (40, lambda rng: shallow(rng, 80, 8)),
        "BLIP, 16 draws": (100, lambda rng: blip(rng, 200, 16)),
    }
    return [
        row
        for name, (waves, draw) in kinds.items()
        for row in rows(f"pinned: {name}", [_trial(seed, waves, draw, frames) for seed in range(repeats)])
    ]


def _trial(seed: int, waves: int, draw: Draw, n_frames: int) -> dict[str, FitTrial]:
    rng = np.random.default_rng(seed)
    frames = Frames.random(rng, rng.choice(FORMULAS, size=n_frames).tolist(), waves=waves)
    alpha = float(np.exp(rng.uniform(*np.log(ALPHAS))))
    deviations, truth, dof = draw(rng)
    mean = rng.normal(size=frames.features.shape[1])
    weights = mean + deviations
    model = Members(weights @ frames.features.T, frames.forces(weights), {"mean_share": 0.0, "dof": dof})
    labels = mean + alpha * truth
    labelled = frames.labelled(frames.features @ labels, frames.forces(labels), [""] * n_frames)
    return trial(model, labelled, alpha)


def llpr(rng: np.random.Generator, n_weights: int, uneven: float) -> tuple[Array, Array, float]:
    """As many members as an exact covariance needs; that of a regression on rows of uneven columns."""
    x = rng.normal(size=(4 * n_weights, n_weights)) * np.exp(uneven * rng.normal(size=n_weights))
    covariance = posterior_covariance(torch.from_numpy(x.T @ x))
    members = posterior_members(covariance, n_weights + 1, seed=int(rng.integers(2**31))).numpy().T
    return members, rng.multivariate_normal(np.zeros(n_weights), covariance.numpy()), np.inf


def shallow(rng: np.random.Generator, n_weights: int, n_members: int) -> tuple[Array, Array, float]:
    """Heads that scatter with a size of their own for each weight."""
    drawn = np.exp(0.5 * rng.normal(size=n_weights)) * rng.normal(size=(n_members + 1, n_weights))
    return drawn[1:] - drawn[1:].mean(axis=0), drawn[0], n_members - 1.0


def blip(rng: np.random.Generator, n_weights: int, n_members: int) -> tuple[Array, Array, float]:
    """Weights that are switched off, or made up for those that are."""
    off = rng.uniform(0.02, 0.3, size=n_weights)
    drawn = rng.normal(size=n_weights) * ((rng.random(size=(n_members + 1, n_weights)) > off) / (1.0 - off) - 1.0)
    return drawn[1:] - drawn[1:].mean(axis=0), drawn[0], n_members - 1.0
