"""What an `UncertaintyModel` may be able to do beside predicting: small protocols, each asked for where it is needed.

====================  ====================================================================
protocol              who asks
====================  ====================================================================
`CombiningModel`      calculators: forces of the mean, or of a blend, in one pass
`BatchModel`          `rerun`: many structures at once
`CalibratableModel`   `calibrate`: the same model under other factors
`StorableModel`       `save` and `load`
====================  ====================================================================

A model without one of them does without: it is evaluated structure by structure, or whoever needs the ability says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

from ase import Atoms

from ase_uq.uncertainty.blend import Target
from ase_uq.uncertainty.force_variance import ForceVariance
from ase_uq.uncertainty.prediction import Prediction, UncertaintyModel


@runtime_checkable
class CombiningModel(UncertaintyModel, Protocol):
    """A model that can differentiate a combination of its members in one pass, without the forces of each of them."""

    def predict_combined(self, atoms: Atoms, *, forces_var: ForceVariance, combine: Target | None = None) -> Prediction:
        """Predict with the variance of forces that `forces_var` gives.

        `combine` says with which coefficients (M,) members enter; `forces` and `stress` are then those of sum_i c_i V_i
        instead of those of the mean, wherever `forces_members` is not there.
        """
        ...


@runtime_checkable
class BatchModel(UncertaintyModel, Protocol):
    """A model that evaluates several structures together."""

    def predict_many(self, structures: Sequence[Atoms], *, forces_var: bool = True) -> list[Prediction]:
        """Return the prediction of each structure; without `forces_var` that of the mean force is enough."""
        ...


@runtime_checkable
class CalibratableModel(UncertaintyModel, Protocol):
    """A model whose epistemic widths can be scaled; it may keep as `calibration` what the factors were fitted on."""

    def calibrated(
        self,
        alpha: float,
        calibration: Mapping[str, Any],
        *,
        alpha_forces: float | None = None,
        alpha_stress: float | None = None,
    ) -> Self:
        """Return the same model under these factors of energies, forces and stress; the model itself stays as it is.

        The factors replace those the model has. `None` stands for `alpha`, and for stress for that of the forces.
        """
        ...


@runtime_checkable
class StorableModel(UncertaintyModel, Protocol):
    """A model that a file can hold, as plain data; `ase_uq.models.checkpoint` lists the classes that files may name."""

    def state(self) -> dict[str, Any]:
        """Return all that predictions follow from, under names without a slash.

        A value is a tensor, a dictionary of tensors, or anything that JSON can hold.
        """
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Make the model of a state; further keyword arguments, all with defaults, say how it is to be evaluated."""
        ...
