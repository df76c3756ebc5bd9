"""Continuous ranked probability scores as losses: of Gaussians, and of members.

    CRPS = E|X - y| - E|X - X'|/2,        X, X' independent draws of the prediction, y the label

It is smallest, on average, for the law that labels have, is in their unit, and, unlike a likelihood, bears a label far
off: what it fits is the bulk of the errors.

References
----------
Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007), doi:10.1198/016214506000001437, Eq. 5 (Gaussian). Ferro,
Q. J. R. Meteorol. Soc. 140, 1917 (2014), doi:10.1002/qj.2270: the fair score of members. As a loss for perturbed
potentials: arXiv:2605.19939.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gaussian_crps(error: Tensor, std: Tensor) -> Tensor:
    """Return the score of normal predictions, of the shape of `error` and in its unit; `std` above zero.

    s (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi)) with z = error/s.
    """
    z = error / std
    density = torch.exp(-0.5 * z.square()) * (2.0 / math.pi) ** 0.5
    scores: Tensor = std * (z * torch.erf(z / 2.0**0.5) + density - math.pi**-0.5)
    return scores


def fair_crps(members: Tensor, labels: Tensor) -> Tensor:
    """Return the unbiased estimate from M independent draws.

    mean_k |x_k - y| - sum_{k<l} |x_k - x_l| / (M (M - 1)). Draws that are tied to their mean are not independent: of
    those it is no estimate, and training by it makes them spread too far.

    Parameters
    ----------
    members
        (M, ...), M at least 2.
    labels
        (...).
    """
    n_draws = len(members)
    pairs = (members.unsqueeze(0) - members.unsqueeze(1)).abs().sum(dim=(0, 1))  # every pair twice
    return (members - labels).abs().mean(dim=0) - pairs / (2.0 * n_draws * (n_draws - 1))
