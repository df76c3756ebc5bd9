"""When not to believe a reweighed average: every gate is a number, a threshold and a sentence.

============================  ===========================================================
symbol                        variable
============================  ===========================================================
max_i sd(h_i)                 `max_std_h`, in units of kT
exp(-var h)                   share of frames that direct weights leave for Gaussian h
T/g                           `n_frames / g`, independent frames
tr(P C)/(M - 1)               `noise`
delta                         `second_order`, the first neglected term of the expansion
============================  ===========================================================

References
----------
Ceriotti, Brain, Riordan and Manolopoulos, Proc. R. Soc. A 468, 2 (2012): weights decay with the variance of h.
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 25.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DIRECT_STD_H = 1.0  # exp(-1): a third of the frames is left
CEA_STD_H = (1.0, 2.0)
MODEL_FRAMES = 100.0  # T/g below which sampling noise is a large part of the members' spread
SAMPLING_FRAMES = 50.0  # T/g below which g itself is not known
MATERIAL_SHARE = 1.0 / 3.0  # of the spread between members
SIGNIFICANT = 3.0  # standard errors
DRIVER_STD_H = 0.01  # kT; far above rounding, far below anything that moves an average
FLOAT32_STEP = 0.05  # kT


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """A correction per member that should be small: its root mean square, and its largest ratio to its own error."""

    size: float
    significance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """The numbers the gates look at.

    Attributes
    ----------
    method
        "cea" or "direct".
    n_members, n_frames
        M and T.
    g
        Statistical inefficiency of the series behind the reported mean.
    plateau
        Whether blocking found one.
    max_std_h, std_mean_h
        Largest standard deviation of h_i along the run, and that of the mean over members of h_i; kT.
    spread, noise
        Spread of the members' means (variance), and the part of it that is sampling noise.
    mean_shift
        Reported mean minus the plain average.
    ess
        Effective number of frames of direct reweighting, or `None` where it is not known.
    second_order, disagreement
        Third-cumulant term of the expansion, and expansion minus direct weights; `None` where not known.
    energy_step
        Resolution of the energies handed in, kT.
    """

    method: str
    n_members: int
    n_frames: int
    g: float
    plateau: bool
    max_std_h: float
    std_mean_h: float
    spread: float
    noise: float
    mean_shift: float
    ess: float | None = None
    second_order: Discrepancy | None = None
    disagreement: Discrepancy | None = None
    energy_step: float = 0.0


def warnings_for(numbers: Diagnostics) -> tuple[str, ...]:
    """Sentences for all gates that fire, the most serious first."""
    return (*_overlap(numbers), *_expansion(numbers), *_length(numbers), *_members(numbers))


def _overlap(n: Diagnostics) -> Iterator[str]:
    width = f"the energies of the members move against the driving energy by up to {n.max_std_h:.2g} kT along the run"
    if n.method == "direct":
        if n.max_std_h > DIRECT_STD_H:
            left = np.exp(-(n.max_std_h**2))
            yield (
                f"{width}, so that direct weights keep about {left:.2g} of the frames (limit {DIRECT_STD_H:g} kT): "
                "these averages are not reliable; use method 'cea'."
            )
        if n.ess is not None and n.ess < SAMPLING_FRAMES:
            yield (
                f"direct weights leave only {n.ess:.3g} effective frames (fewer than {SAMPLING_FRAMES:g}): "
                "a few frames decide the average; use method 'cea' or run longer."
            )
    elif n.max_std_h > CEA_STD_H[1]:
        yield (
            f"{width} (limit {CEA_STD_H[1]:g} kT): the cumulant expansion holds only if observable and energies are "
            "jointly Gaussian; distrust `std_model` for anything else."
        )
    elif n.max_std_h > CEA_STD_H[0]:
        yield (
            f"{width} (limit {CEA_STD_H[0]:g} kT): the cumulant expansion is good only as far as observable and "
            "energies are close to jointly Gaussian."
        )


def _expansion(n: Diagnostics) -> Iterator[str]:
    spread = float(np.sqrt(n.spread))
    if n.method == "cea" and _matters(n.second_order, spread):
        assert n.second_order is not None
        yield (
            f"the next term of the cumulant expansion shifts the members by {n.second_order.size:.2g}, against a "
            f"spread of {spread:.2g} between them: the expansion has not converged for this observable."
        )
    if _matters(n.disagreement, spread):
        assert n.disagreement is not None
        yield (
            f"cumulant expansion and direct weights differ by {n.disagreement.size:.2g} per member, against a spread "
            f"of {spread:.2g} and {n.disagreement.significance:.0f} times their sampling error, although enough frames "
            "carry weight: the energies are not Gaussian (several states?); treat each state by itself."
        )


def _length(n: Diagnostics) -> Iterator[str]:
    independent = n.n_frames / n.g
    if independent < SAMPLING_FRAMES:
        yield (
            f"the run is only {independent:.3g} correlation lengths long (fewer than {SAMPLING_FRAMES:g}): "
            "`std_sampling` is itself a rough lower estimate; run longer."
        )
    if not n.plateau:
        yield (
            f"blocking finds no plateau in {n.n_frames} frames: blocks are still correlated, and `std_sampling` is a "
            "lower bound; run longer."
        )
    if independent < MODEL_FRAMES:
        share = min(n.noise / n.spread, 1.0) if n.spread > 0 else 0.0
        yield (
            f"there are only {independent:.3g} independent frames (fewer than {MODEL_FRAMES:g}): much of the spread "
            f"between members may be sampling noise (estimated share of its variance: {share:.0%})."
        )


def _members(n: Diagnostics) -> Iterator[str]:
    if 0 < n.spread <= 2.0 * n.noise:
        yield (
            f"the members' means spread by {np.sqrt(n.spread):.2g} where sampling noise alone gives "
            f"{np.sqrt(n.noise):.2g}: the model error is not resolved; take {np.sqrt(n.spread):.2g} as an upper bound."
        )
    if n.std_mean_h > DRIVER_STD_H:
        yield (
            f"the mean of the members is not the energy that drove the run: they move against each other by "
            f"{n.std_mean_h:.2g} kT, and the reported mean is {n.mean_shift:+.2g} away from the plain average."
        )
    if n.n_members < 4:
        yield (
            f"the spread of {n.n_members} members is known to {1 / np.sqrt(2 * (n.n_members - 1)):.0%} at best: "
            "use at least 4 members."
        )
    if n.energy_step > FLOAT32_STEP:
        yield (
            f"the energies came in single precision, which resolves them to {n.energy_step:.2g} kT: "
            "pass them in double precision, or their differences from the driving energy."
        )


def _matters(discrepancy: Discrepancy | None, spread: float) -> bool:
    # What is significant but small against the spread changes no error bar; what is large but insignificant is noise.
    return (
        discrepancy is not None
        and discrepancy.significance > SIGNIFICANT
        and discrepancy.size > MATERIAL_SHARE * spread
    )
