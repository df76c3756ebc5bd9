"""`fit_heads`: the heads of a shallow ensemble, given its body, so that they spread as far as it errs.

=======  =====================================================================
symbol   variable
=======  =====================================================================
x, r     rows of the last layer and their errors, see `rows`
d_m      `deviations[:, m]`, (F, M), what head m adds; their mean over m is zero
s_i^2    sum_m (x_i . d_m)^2/(M - 1) + floor, variance of label i over heads
=======  =====================================================================

The heads minimise the mean Gaussian CRPS of s_i for the errors r_i of forces and, each in units of their root mean
square, of energies without their constants. The rows are there once and for all, so that a step costs two products of
matrices, and a few hundred of them less than an epoch of a training with the forces of every head. They start from
draws of the posterior of the last layer. The best heads on the validation rows are kept, and all are multiplied by the
factor that fits best there: training frames are known too well.

References
----------
Kellner and Ceriotti, arXiv:2402.16621 (heads, likelihood of energies); Schaefer et al., arXiv:2602.15747 (forces, and
the heads alone after the body); Bigi et al., arXiv:2403.02251 (posterior of the last layer).
"""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from ase_uq.training.crps import gaussian_crps
from ase_uq.training.rows import Part, Rows

STEPS, RATE, _EVERY = 400, 0.03, 10
# Of the rms error: below, no spread is worth anything; it keeps roots differentiable.
FLOOR = 0.02
RIDGE = 1e-6
ENERGY_WEIGHT = 1.0
# A factor beyond says that the rows are too few to tell.
_LARGEST_FACTOR = 20.0


def fit_heads(train: Rows, valid: Rows, n_members: int, *, seed: int = 0) -> Tensor:
    """Return the deviations of M heads, (F, M) float64, eV.

    Parameters
    ----------
    train, valid
        Rows of the same body.
    n_members
        Number of heads, M.
    seed
        Of the draws they start from.
    """
    unit = train.forces.x.square().mean(dim=0).sqrt()
    unit = unit.clamp(min=1e-6 * float(unit.max())).reciprocal().unsqueeze(1)
    rms = (max(train.forces.rms, 1e-12), max(train.energies.rms, 1e-12))
    heads = _draws(train, unit, n_members, seed)
    heads = (heads * _factor(train, unit * heads, rms)).requires_grad_(True)
    rate = RATE * float(heads.detach().square().mean().sqrt())
    optimizer = torch.optim.Adam([heads], lr=rate)
    best, smallest = heads.detach().clone(), math.inf
    for step in range(STEPS + 1):
        if step % _EVERY == 0:
            with torch.no_grad():
                found = float(spread_loss(valid, unit * heads, rms))
            if found < smallest:
                best, smallest = heads.detach().clone(), found
        optimizer.param_groups[0]["lr"] = rate * (1.0 - step / (STEPS + 1))
        optimizer.zero_grad()
        spread_loss(train, unit * heads, rms).backward()
        optimizer.step()
    deviations = unit * (best - best.mean(dim=1, keepdim=True))
    return deviations * _factor(valid, deviations, rms, energy_weight=len(valid.energies.x) / len(valid.forces.x))


def spread_loss(
    rows: Rows, deviations: Tensor, rms: tuple[float, float], *, energy_weight: float = ENERGY_WEIGHT
) -> Tensor:
    """Return the mean CRPS of forces and of energies, in units of `rms` errors of each."""
    deviations = deviations - deviations.mean(dim=1, keepdim=True)
    return _score(rows.forces, deviations, rms[0]) + energy_weight * _score(rows.energies, deviations, rms[1])


def _score(part: Part, deviations: Tensor, rms: float) -> Tensor:
    variance = (part.x @ deviations).square().sum(dim=1) / (deviations.shape[1] - 1)
    return gaussian_crps(part.error, torch.sqrt(variance + (FLOOR * rms) ** 2)).mean() / rms


def _draws(rows: Rows, unit: Tensor, n_members: int, seed: int) -> Tensor:
    # Of N(0, H^-1), H that of the least squares, in scaled weights.
    scaled = torch.cat([rows.forces.x, rows.energies.x]) * unit.T
    hessian = scaled.T @ scaled / len(scaled)
    hessian += RIDGE * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=hessian.dtype)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(hessian), n_members, generator=generator, dtype=torch.float64)
    heads: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(hessian).T, drawn, upper=True)
    return heads - heads.mean(dim=1, keepdim=True)


def _factor(rows: Rows, deviations: Tensor, rms: tuple[float, float], *, energy_weight: float = ENERGY_WEIGHT) -> float:
    def loss(log_factor: float) -> float:
        return float(spread_loss(rows, math.exp(log_factor) * deviations, rms, energy_weight=energy_weight))

    with torch.no_grad():
        # Errors of unit size against spreads of unit size, roughly, from where the search goes both ways.
        start = math.log(max(rows.forces.rms, 1e-12)) - math.log(_rms_spread(rows.forces, deviations))
        width = math.log(_LARGEST_FACTOR)
        found = minimize_scalar(loss, bounds=(start - width, start + width), method="bounded")
    return math.exp(float(found.x))


def _rms_spread(part: Part, deviations: Tensor) -> float:
    spread = (part.x @ deviations).square().sum(dim=1).mean() / (deviations.shape[1] - 1)
    return max(float(spread.sqrt()), 1e-12)
