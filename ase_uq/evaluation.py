"""A model against labelled frames: predict once, then score and calibrate from the same arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_uq.calibration import MIN_STRUCTURES, Calibration, calibrate
from ase_uq.errors import InputError
from ase_uq.prediction import Prediction, UncertaintyModel
from ase_uq.scores import Scores, energy_scores, force_scores
from ase_uq.training.data import Frame

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Residuals:
    """Predictions of a model on labelled frames.

    Attributes
    ----------
    frames, predictions
        The frames and what the model says of them, in the same order.
    """

    frames: tuple[Frame, ...]
    predictions: tuple[Prediction, ...]

    @property
    def n_atoms(self) -> NDArray[np.int64]:
        """(S,), atoms of each frame."""
        return np.array([len(frame.atoms) for frame in self.frames])

    @property
    def energy_error(self) -> Array:
        """(S,), predicted minus reference total energy, eV."""
        return np.array([p.energy - f.energy for p, f in zip(self.predictions, self.frames, strict=True)])

    @property
    def force_error(self) -> Array:
        """(N, 3), predicted minus reference forces of all frames, eV/Å."""
        return np.concatenate([p.forces - f.forces for p, f in zip(self.predictions, self.frames, strict=True)])

    def stacked(self, name: str) -> Array | None:
        """A field of the predictions: (S,) of scalars, (N, 3) of forces; `None` if the model does not provide it."""
        values = [getattr(prediction, name) for prediction in self.predictions]
        if any(value is None for value in values):
            return None
        return np.concatenate(values) if np.ndim(values[0]) else np.array(values)

    def energy_scores(self) -> Scores:
        """Score the energies, ranks also within `config_type` and composition."""
        return energy_scores(
            error=self.energy_error,
            n_atoms=self.n_atoms,
            var_epistemic=self.stacked("energy_var_epistemic"),
            var_aleatoric=self.stacked("energy_var_aleatoric"),
            alpha=self.predictions[0].alpha,
            n_members=self.predictions[0].n_members,
            groups={
                "config_type": [frame.group for frame in self.frames],
                "composition": [frame.atoms.get_chemical_formula() for frame in self.frames],
            },
        )

    def force_scores(self) -> Scores:
        """Score the forces, ranks also within `config_type` and element."""
        return force_scores(
            error=self.force_error,
            var_epistemic=self.stacked("forces_var_epistemic"),
            var_aleatoric=self.stacked("forces_var_aleatoric"),
            alpha=self.predictions[0].alpha,
            n_members=self.predictions[0].n_members,
            groups={
                "config_type": [frame.group for frame in self.frames for _ in frame.atoms],
                "element": [symbol for frame in self.frames for symbol in frame.atoms.symbols],
            },
        )

    def calibrate(self, *, on: str = "energy", **options: Any) -> Calibration:
        """Fit alpha to the errors of energies, or of force components; the model's own alpha is taken out first.

        There is one alpha, the members'. Averages need that of the energies; fit it to the forces where their
        uncertainty is what counts, such as for choosing new training frames. `options` go to
        `ase_uq.calibration.calibrate`; groups are given by frame, and by default each frame is one.
        """
        if on not in ("energy", "forces"):
            raise InputError(f"`on` must be 'energy' or 'forces', got {on!r}; choose one.")
        if len(self.frames) < MIN_STRUCTURES:
            raise InputError(
                f"`frames` must be at least {MIN_STRUCTURES} to calibrate, got {len(self.frames)}; add validation data."
            )
        variance = self.stacked(f"{on}_var_epistemic")
        n_members = self.predictions[0].n_members
        if variance is None or n_members is None:
            raise InputError(f"calibration needs `{on}_var`, which this model does not provide; use a committee.")
        if on == "forces":
            groups = options.get("groups", np.arange(len(self.frames)))
            options |= {"groups": np.repeat(groups, 3 * self.n_atoms), "values": "force components"}
        error = self.energy_error if on == "energy" else self.force_error.ravel()
        fitted = calibrate(
            reference=np.zeros_like(error),
            mean=error,
            std=np.sqrt(variance.ravel()) / self.predictions[0].alpha,
            n_members=n_members,
            **options,
        )
        return replace(fitted, n_structures=len(self.frames))


def residuals(
    model: UncertaintyModel, frames: Sequence[Frame], *, on_frame: Callable[[int], None] | None = None
) -> Residuals:
    """Predict every frame once.

    Parameters
    ----------
    model
        Any uncertainty model.
    frames
        Labelled frames.
    on_frame
        Called with the number of frames done, for a progress bar.
    """
    predictions = []
    for done, frame in enumerate(frames, 1):
        predictions.append(model.predict(frame.atoms, ("energy", "forces")))
        if on_frame is not None:
            on_frame(done)
    return Residuals(tuple(frames), tuple(predictions))
