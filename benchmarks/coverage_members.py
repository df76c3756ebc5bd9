"""Members and labels of known widths on random frames, calibrated on one half of them and judged on the other.

==============  =========================================================================================
symbol          meaning
==============  =========================================================================================
f_z(x)          Fourier features of one atom of element z, `waves` of random waves of about 1 Å
E_i             sum over atoms of f_z . (W_z + d_iz), plus constants; forces are its gradient
d_i, d          deviations of members and of the truth, all drawn alike
label           as E_i with alpha d: errors are alpha times what the members scatter by
==============  =========================================================================================

Everything goes the way of a user: `residuals`, `factors`, `with_factors`, and the scores of other frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from ase import Atoms
from coverage_trial import Array, Fit, FitTrial

from ase_uq import Prediction
from ase_uq.structures.frames import Frame
from ase_uq.validation.residuals import residuals, with_factors


@dataclass(frozen=True, slots=True)
class Frames:
    """Random structures, with the features whose weights make energies and forces.

    Attributes
    ----------
    atoms
        S structures, each with its number in `info`.
    features, slopes
        (S, P) and (3 N, P), their negative derivatives; N counts the atoms of all frames.
    """

    atoms: list[Atoms]
    features: Array
    slopes: Array

    @classmethod
    def random(cls, rng: np.random.Generator, formulas: Sequence[str], *, waves: int) -> Frames:
        """Put the atoms of each formula at random, a Gaussian cloud of 1 Å."""
        atoms = [Atoms(formula, rng.normal(size=(len(Atoms(formula)), 3))) for formula in formulas]
        for i, each in enumerate(atoms):
            each.info["frame"] = i
        of_frame = np.repeat(np.arange(len(atoms)), [len(each) for each in atoms])
        x, numbers = np.concatenate([a.positions for a in atoms]), np.concatenate([a.numbers for a in atoms])
        elements = np.unique(numbers)
        features = np.zeros((len(atoms), len(elements) * waves))
        slopes = np.zeros((len(x), 3, features.shape[1]))
        for k, number in enumerate(elements):
            own, columns = numbers == number, slice(k * waves, (k + 1) * waves)
            vectors, phases = rng.normal(size=(waves, 3)), rng.uniform(0.0, 2.0 * np.pi, size=waves)
            angles = x[own] @ vectors.T + phases
            # Less its average, so that energies have no constants but those that are added by hand.
            average = np.exp(-0.5 * (vectors**2).sum(axis=1)) * np.cos(phases)
            np.add.at(features[:, columns], of_frame[own], np.cos(angles) - average)
            slopes[own, :, columns] = np.sin(angles)[:, None, :] * vectors.T
        return cls(atoms, features, slopes.reshape(-1, features.shape[1]))

    def forces(self, weights: Array) -> list[Array]:
        """Forces of each frame, (..., N, 3), for weights (..., P)."""
        flat = (weights @ self.slopes.T).reshape(*weights.shape[:-1], -1, 3)
        return np.split(flat, np.cumsum([len(each) for each in self.atoms])[:-1], axis=-2)

    def labelled(self, energy: Array, forces: Sequence[Array], groups: Sequence[str]) -> list[Frame]:
        """Frames with labels (S,), eV, forces of each, eV/Å, and the name of their kind."""
        rows = zip(self.atoms, energy, forces, groups, strict=True)
        return [Frame(atoms, float(e), f, None, group) for atoms, e, f, group in rows]


@dataclass(frozen=True, slots=True)
class Members:
    """A model whose members are known on the frames, which say their number in `info`."""

    energies: Array  # (M, S)
    forces: list[Array]  # S times (M, N, 3)
    law: Mapping[str, float]  # mean_share and dof, where they are not those of independent members
    factors: Mapping[str, float | None] = field(default_factory=dict)

    def predict(self, atoms: Atoms, properties: Sequence[str]) -> Prediction:  # noqa: ARG002
        """Look up."""
        i = atoms.info["frame"]
        return Prediction.from_members(energies=self.energies[:, i], forces=self.forces[i], **self.law, **self.factors)

    def calibrated(self, alpha: float, calibration: Mapping[str, Any], **others: float | None) -> Members:  # noqa: ARG002
        """Return the same under other factors."""
        return replace(self, factors={"alpha": alpha, **others})


def trial(model: Members, frames: Sequence[Frame], true_alpha: float) -> dict[str, FitTrial]:
    """Calibrate on the first half of the frames, and judge energies without constants and forces of the second."""
    half = len(frames) // 2
    fitted = residuals(model, frames[:half]).factors()
    judged = residuals(with_factors(model, fitted), frames[half:])
    found = {}
    for name, scores in (("energy", judged.energy_scores(centred=True)), ("forces", judged.force_scores())):
        fit = fitted[name]
        away = abs(fit.alpha - true_alpha) <= 2.0 * fit.alpha_std_error
        found[name] = FitTrial((scores.coverage_68, scores.coverage_95), fit.alpha / true_alpha, away, fit.warnings)
    return found


def rows(case: str, trials: Sequence[Mapping[str, FitTrial]]) -> list[Fit]:
    """One row for each quantity."""
    return [Fit.of(case, name, [each[name] for each in trials]) for name in trials[0]]
