"""A model against labelled frames: predict once, then score and calibrate from the same arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.structures.frames import Frame
from ase_uq.uncertainty.abilities import CalibratableModel
from ase_uq.uncertainty.prediction import Prediction, UncertaintyModel
from ase_uq.validation.calibration import MIN_STRUCTURES, Calibration, calibrate
from ase_uq.validation.centring import Centring
from ase_uq.validation.resolution import zero_by_symmetry
from ase_uq.validation.scores import Scores, energy_scores, force_scores, stress_scores
from ase_uq.validation.yardsticks import Yardstick, yardsticks

QUANTITIES = ("energy", "forces", "stress")


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
        """Number of atoms of each frame, (S,)."""
        return np.array([len(frame.atoms) for frame in self.frames])

    @property
    def counts(self) -> Array:
        """Number of atoms of each element that occurs, (S, Z)."""
        numbers = np.unique(np.concatenate([frame.atoms.numbers for frame in self.frames]))
        return np.array([(frame.atoms.numbers[:, None] == numbers).sum(axis=0) for frame in self.frames], dtype=float)

    @property
    def energy_error(self) -> Array:
        """Predicted minus reference total energies, (S,), eV."""
        return np.array([p.energy - f.energy for p, f in zip(self.predictions, self.frames, strict=True)])

    @property
    def force_error(self) -> Array:
        """Predicted minus reference forces of all frames, (N, 3), eV/Å."""
        return np.concatenate([p.forces - f.forces for p, f in zip(self.predictions, self.frames, strict=True)])

    @property
    def with_stress(self) -> Residuals | None:
        """The frames with a stress label for which the model has a stress; `None` without any."""
        both = [i for i, f in enumerate(self.frames) if f.stress is not None and self.predictions[i].stress is not None]
        if not both:
            return None
        return Residuals(tuple(self.frames[i] for i in both), tuple(self.predictions[i] for i in both))

    @property
    def stress_error(self) -> Array:
        """Predicted minus reference stress of `with_stress`, (S, 6), eV/Å^3."""
        pairs = zip(self.predictions, self.frames, strict=True)
        return np.array([np.subtract(p.stress, f.stress) for p, f in pairs])  # type: ignore[arg-type]

    def stacked(self, name: str) -> Array | None:
        """A field of the predictions: (S,) of scalars, (N, 3) of forces; `None` if the model does not provide it."""
        values = [getattr(prediction, name) for prediction in self.predictions]
        if any(value is None for value in values):
            return None
        return np.concatenate(values) if np.ndim(values[0]) else np.array(values)

    def energy_scores(self, *, centred: bool = False) -> Scores:
        """Score the energies, ranks also within `config_type` and composition.

        Parameters
        ----------
        centred
            Without what is constant within a composition, of errors and members alike: what averages and forces feel.
        """
        error, epistemic = self._centred() if centred else (self.energy_error, self.stacked("energy_var_epistemic"))
        return energy_scores(
            error=error,
            n_atoms=self.n_atoms,
            var_epistemic=epistemic,
            var_aleatoric=self._energy_noise(centred=centred),
            used=self._centring().left if centred else None,
            groups=self._kinds("energy"),
            **self._law("energy"),
        )

    def force_scores(self) -> Scores:
        """Score the forces, ranks also within `config_type` and element."""
        return force_scores(
            error=self.force_error,
            var_epistemic=self.stacked("forces_var_epistemic"),
            var_aleatoric=self.stacked("forces_var_aleatoric"),
            used=self.counted_forces,
            groups=self._kinds("forces"),
            **self._law("forces"),
        )

    def stress_scores(self) -> Scores | None:
        """Score the stress of the frames that have one; `None` where labels or predictions have none."""
        found = self.with_stress
        if found is None:
            return None
        var = {name: found.stacked(f"stress_var_{name}") for name in ("epistemic", "aleatoric")}
        return stress_scores(
            error=found.stress_error,
            used=~found._zero("stress"),
            **{f"var_{name}": None if value is None else value.reshape(-1, 6) for name, value in var.items()},
            **found._law("stress"),
        )

    def force_yardsticks(self) -> tuple[Yardstick, ...]:
        """The model's widths of forces beside a constant and a + b |F|, each with its best factor."""
        used, var = self.counted_forces, self.stacked("forces_var")
        norms = np.repeat(np.linalg.norm(self.stacked("forces"), axis=1)[:, None], 3, axis=1)  # type: ignore[arg-type]
        return yardsticks(self.force_error[used], None if var is None else np.sqrt(var[used]), force=norms[used])

    def energy_yardsticks(self) -> tuple[Yardstick, ...]:
        """The model's widths of energies beside a constant times the root of N, centred within compositions."""
        (error, var), left = self.centred_energies(), self._centring().left
        std = None if var is None else np.sqrt(var[left])
        return yardsticks(error[left], std, size=np.sqrt(self.n_atoms[left]))

    def centred_energies(self) -> tuple[Array, Array | None]:
        """Errors (S,) eV and variances (S,) eV^2 of the energies without what is constant within a composition."""
        error, epistemic = self._centred()
        noise = self._energy_noise(centred=True)
        if epistemic is None or noise is None:
            return error, noise if epistemic is None else epistemic
        return error, epistemic + noise

    @property
    def counted_forces(self) -> NDArray[np.bool_]:
        """The components of forces that symmetry does not make zero, (N, 3)."""
        return ~self._zero("forces")

    def calibrate(self, *, on: str = "energy", **options: Any) -> Calibration:
        """Fit the factor of the energies, the forces or the stress; the model's own is taken out first.

        That of the energies is fitted to errors and members without what is constant within a composition, and is the
        members': averages and the weight of a baseline need it. Forces and stress have factors of their own, for their
        variances only. `options` go to `ase_uq.validation.calibration.calibrate`; groups are given by
        frame, and by default each frame is one.

        Raises
        ------
        InputError
            For fewer than 10 frames, or an epistemic variance that the model does not give.
        """
        if on not in QUANTITIES:
            raise InputError(f"`on` must be one of {', '.join(QUANTITIES)}, got {on!r}; choose one.")
        found = self.with_stress if on == "stress" else self
        n_frames = 0 if found is None else len(found.frames)
        if found is None or n_frames < MIN_STRUCTURES:
            which = " with a stress" if on == "stress" else ""
            raise InputError(
                f"`frames` must be at least {MIN_STRUCTURES}{which} to calibrate, got {n_frames}; add validation data."
            )
        return found._calibrate(on, options)

    def factors(self, **options: Any) -> dict[str, Calibration]:
        """Fit all that labels and model allow: energy, forces and, with at least 10 labels, stress.

        Raises
        ------
        InputError
            As `calibrate`; a model that has an epistemic variance of none of them has nothing to fit.
        """
        stress = self.with_stress
        chosen = ["energy"] if self.stacked("energy_var_epistemic") is not None else []
        if self.stacked("forces_var_epistemic") is not None and self.counted_forces.sum() >= MIN_STRUCTURES:
            chosen.append("forces")
        enough = stress is not None and len(stress.frames) >= MIN_STRUCTURES
        if stress is not None and enough and stress.stacked("stress_var_epistemic") is not None:
            chosen.append("stress")
        return {name: self.calibrate(on=name, **options) for name in chosen or ["energy"]}

    def _calibrate(self, on: str, options: dict[str, Any]) -> Calibration:
        variance, n_members = self.stacked(f"{on}_var_epistemic"), self.predictions[0].n_members
        if variance is None:
            raise InputError(
                f"calibration needs `{on}_var` of what the model does not know (epistemic), which this model does not "
                "provide; use a model with members, or with widths of its own."
            )
        law, members = self._law(on), self._members(on)
        mean = np.concatenate([np.ravel(getattr(p, on)) for p in self.predictions])
        reference = np.concatenate([np.ravel(getattr(f, on)) for f in self.frames])
        if members is None:
            spread: dict[str, Any] = {"std": np.sqrt(variance.ravel()) / law["alpha"], "n_members": n_members}
            if n_members is None:
                # Widths as they are: no error of a mean, and nothing estimated from a few members.
                law = {**law, "mean_share": 0.0, "dof": np.inf}
        else:
            # About the mean, which is exact; the members carry the factor of the energies, whatever is fitted here.
            spread = {"members": mean + (members - members.mean(axis=0)) / self.predictions[0].alpha}
        kinds = {name: labels for name, labels in self._kinds(on).items() if len(set(labels)) > 1}
        per_frame = np.array([np.size(getattr(frame, on)) for frame in self.frames])
        if on == "energy":
            spread["compositions"] = self.counts if members is not None else None
        else:
            groups = options.get("groups", np.arange(len(self.frames)))
            options |= {"groups": np.repeat(groups, per_frame), "values": f"{on.removesuffix('s')} components"}
            kinds = {name: np.repeat(labels, 3).tolist() for name, labels in kinds.items()} if on == "forces" else {}
        fitted = calibrate(
            reference=reference,
            mean=mean,
            mean_share=law["mean_share"],
            dof=law["dof"],
            noise=self._noise_of(on),
            kinds=kinds,
            **spread,
            **options,
        )
        return replace(fitted, n_structures=len(self.frames))

    def _noise_of(self, on: str) -> Array | None:
        noise = self.stacked(f"{on}_var_aleatoric")
        return None if noise is None else noise.ravel()

    def _law(self, on: str) -> dict[str, Any]:
        first = self.predictions[0]
        factors = {"energy": first.alpha, "forces": first.alpha_forces, "stress": first.alpha_stress}
        names = ("n_members", "mean_share", "dof")
        return {"alpha": factors[on], **{name: getattr(first, name) for name in names}}

    def _members(self, on: str) -> Array | None:
        """Calibrated members of all frames, (M, n), or `None` where the model has none."""
        parts = [getattr(prediction, f"{on}_members") for prediction in self.predictions]
        if any(part is None for part in parts):
            return None
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def _zero(self, on: str) -> NDArray[np.bool_]:
        """Components that symmetry makes zero: mean and spread below 1e-4 of the root mean square of the labels."""
        mean = np.concatenate([np.atleast_2d(getattr(p, on)) for p in self.predictions])
        labels = np.concatenate([np.atleast_2d(getattr(f, on)) for f in self.frames])
        var = self.stacked(f"{on}_var_epistemic")
        # The raw spread, so that calibration and scores leave out the same.
        std = np.full(mean.shape, np.inf) if var is None else np.sqrt(var.reshape(mean.shape)) / self._law(on)["alpha"]
        return zero_by_symmetry(mean=mean, std=std, reference=labels)

    def _centred(self) -> tuple[Array, Array | None]:
        centring, members = self._centring(), self._members("energy")
        var = self.stacked("energy_var_epistemic")
        if members is not None:
            deviations = centring.of(members - members.mean(axis=0))
            var = np.asarray((deviations**2).sum(axis=0) / (len(members) - 1))
        return centring.of(self.energy_error), var

    def _energy_noise(self, *, centred: bool) -> Array | None:
        noise = self.stacked("energy_var_aleatoric")
        return noise if noise is None or not centred else self._centring().variance_of(noise)

    def _centring(self) -> Centring:
        return Centring.within(self.counts, fewest=2)

    def _kinds(self, on: str) -> dict[str, list[str]]:
        if on == "forces":
            return {
                "config_type": [frame.group for frame in self.frames for _ in frame.atoms],
                "element": [chemical_symbols[z] for frame in self.frames for z in frame.atoms.numbers],
            }
        return {
            "config_type": [frame.group for frame in self.frames],
            "composition": [frame.atoms.get_chemical_formula() for frame in self.frames],
        }


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
        predictions.append(model.predict(frame.atoms, ("energy", "forces", "stress")))
        if on_frame is not None:
            on_frame(done)
    return Residuals(tuple(frames), tuple(predictions))


Model = TypeVar("Model", bound=UncertaintyModel)


def with_factors(model: Model, fitted: Mapping[str, Calibration], *, data: str = "") -> Model:
    """Return a model under the factors of `Residuals.factors`, with what they were fitted on.

    Parameters
    ----------
    model
        The model the residuals are of.
    fitted
        Any of "energy", "forces" and "stress". Without "energy", for a model that has no variance of it, alpha is 1.
    data
        Name of the frames, kept with the model.

    Raises
    ------
    InputError
        For a model without `calibrated`.
    """
    if not isinstance(model, CalibratableModel):
        raise InputError(
            f"`model` must have `calibrated(alpha, calibration, ...)`, {type(model).__name__} has none; see "
            "`ase_uq.uncertainty.abilities.CalibratableModel`."
        )
    others = {name: each for name, each in fitted.items() if name != "energy"}
    factors = {f"alpha_{name}": each.alpha for name, each in others.items()}
    described = {name: each.to_dict() for name, each in others.items()}
    of_energy = fitted["energy"].to_dict() if "energy" in fitted else {"alpha": 1.0}
    calibration = {**of_energy, **factors, **described, "data": data}
    return model.calibrated(of_energy["alpha"], calibration, **factors)
