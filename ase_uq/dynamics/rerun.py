"""`rerun`: the log of an old trajectory, with the uncertainties, and energies of members, that the run did not have.

The energies that the trajectory carries are those its integrator saw, of whatever potential that was: reweighing needs
them only up to a constant. Where frames carry a `free_energy`, that is what their forces were the gradient of. Without
energies the run is taken to have been driven by the mean of the members.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from ase_uq.arrays import Array
from ase_uq.calculators.calculator import PredictionCalculator, UQCalculator
from ase_uq.errors import InputError
from ase_uq.log.definition import hash_of_model
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.observables import ObservableLike
from ase_uq.uncertainty.abilities import BatchModel
from ase_uq.uncertainty.force_variance import Exact, ForceVariance, Off
from ase_uq.uncertainty.prediction import STANDARD, UNCERTAINTY, Prediction, UncertaintyModel

BATCH_SIZE = 16


def rerun(
    model: UncertaintyModel,
    frames: Sequence[Atoms],
    path: str | Path,
    *,
    temperature_K: float,
    interval_fs: float = 1.0,
    ensemble: str = "nvt",
    observables: Mapping[str, ObservableLike] | None = None,
    store: Collection[str] = (),
    forces_var: str | ForceVariance | None = None,
    overwrite: bool = False,
    batch_size: int = BATCH_SIZE,
    on_frame: Callable[[int], None] | None = None,
) -> str:
    """Evaluate a trajectory and write the log that `read_log`, `reweight` and the report read.

    Parameters
    ----------
    model
        Any uncertainty model; without members the log has none, and averages of it no model error.
    frames
        Frames of one run in their order, with the energies of the potential that drove it or without any. Where they
        have no velocities, kinetic energy and temperature are logged as zero.
    path
        Log to write.
    temperature_K
        Target of the thermostat of that run.
    interval_fs
        Time from one frame to the next, fs.
    ensemble, observables, store, overwrite
        As for `UncertaintyLogger`.
    forces_var
        How the variance of forces is found, as for `UQCalculator`; with "off" a model whose members share a body needs
        one backward pass a batch.
    batch_size
        Frames evaluated together.
    on_frame
        Called with the number of frames done.

    Returns
    -------
    str
        What drove the run: "trajectory" (energies of the frames) or "model" (there were none).

    Raises
    ------
    InputError
        For no frames, frames of different atoms, energies in some frames only, or a log that exists.
    """
    if Path(path).exists() and not overwrite:
        raise InputError(f"`path` must not exist yet, {path} does; choose another name, or pass overwrite=True.")
    if not frames:
        raise InputError("`frames` must hold at least one structure, got none; check the trajectory.")
    first = _energy(frames[0])
    driver = "trajectory" if first is not None else "model"
    for index, frame in enumerate(frames):
        _check(frame, frames[0], index, None if first is None else first.name)
    calculator = UQCalculator(model, forces_var=forces_var)
    atoms, replay = frames[0].copy(), _Replay(calculator, driver, frames[0])
    atoms.calc = replay
    options: dict[str, Any] = {"observables": observables, "store": store, "overwrite": overwrite}
    with UncertaintyLogger(
        path, atoms, temperature_K=temperature_K, timestep_fs=interval_fs, ensemble=ensemble, **options
    ) as log:
        for start in range(0, len(frames), batch_size):
            part = frames[start : start + batch_size]
            for done, (frame, found) in enumerate(zip(part, _evaluated(calculator, part), strict=True), start + 1):
                _move(atoms, frame)
                replay.load(found, _energy(frame))
                atoms.get_potential_energy()
                log()
                if on_frame is not None:
                    on_frame(done)
    return driver


class _Found(NamedTuple):
    """The prediction of a frame, and the standard deviation of its forces as the log records it, (N,) eV/Å."""

    prediction: Prediction
    force_std_norm: Array | None


def _evaluated(calculator: UQCalculator, frames: Sequence[Atoms]) -> Iterator[_Found]:
    """Evaluate frames together where members are wanted one by one, or not at all; else frame by frame."""
    model, estimator = calculator.model, calculator.forces_var
    # Of members that share nothing an estimator gets no less than all forces.
    at_once = isinstance(estimator, Exact | Off) or not calculator.combines
    if at_once and isinstance(model, BatchModel) and estimator.every == 1:
        for prediction in model.predict_many(frames, forces_var=not isinstance(estimator, Off)):
            yield _Found(prediction, prediction.force_std_norm)
        return
    for frame in frames:
        atoms = frame.copy()
        atoms.calc = calculator
        atoms.get_potential_energy()
        yield _Found(calculator.prediction, calculator.force_std_norm)


class _Replay(PredictionCalculator):
    """Gives out what is already known."""

    def __init__(self, calculator: UQCalculator, driver: str, atoms: Atoms) -> None:
        told = {name: calculator.parameters[name] for name in ("model", "forces_var")}
        told["model_hash"] = hash_of_model(calculator.model, atoms)
        super().__init__([*STANDARD, *UNCERTAINTY], **told)
        self.driver, self.intermittent = driver, calculator.intermittent
        self._next: tuple[_Found, dict[str, Any]] | None = None

    def load(self, found: _Found, energy: _Energy | None) -> None:
        self._next = (found, {} if energy is None else {"energy": energy.value})
        self.reset()

    def _predict(self, atoms: Atoms, properties: Sequence[str]) -> tuple[Prediction, Mapping[str, Any]]:  # noqa: ARG002
        assert self._next is not None
        found, energy = self._next
        return found.prediction, energy

    def _force_std(self, prediction: Prediction) -> Array | None:  # noqa: ARG002
        assert self._next is not None
        return self._next[0].force_std_norm


class _Energy(NamedTuple):
    """What a frame calls the energy its forces were the gradient of, and its value, eV."""

    name: str
    value: float


def _energy(frame: Atoms) -> _Energy | None:
    for name in ("free_energy", "energy"):
        try:
            value = None if frame.calc is None else frame.calc.get_property(name, frame, allow_calculation=False)
        except (PropertyNotImplementedError, TypeError):
            continue
        if value is not None:
            return _Energy(name, float(np.reshape(value, -1)[0]) if np.size(value) == 1 else np.nan)
    return None


def _check(frame: Atoms, first: Atoms, index: int, name: str | None) -> None:
    if not np.array_equal(frame.numbers, first.numbers):
        raise InputError(
            f"`frames` must be of one run, frame {index} is {frame.get_chemical_formula()} and the first "
            f"{first.get_chemical_formula()}, or in another order; give one trajectory at a time."
        )
    energy = _energy(frame)
    if (energy is None) != (name is None):
        raise InputError(
            f"`frames` must all have energies or none, frame {index} differs from the first; "
            "take the energies out, or leave those frames out."
        )
    if energy is not None and energy.name != name:
        raise InputError(
            f"`frames` must all have the same energy, frame {index} has `{energy.name}` where the first has `{name}`; "
            "they differ by the entropy of the electrons, so keep one of them throughout."
        )
    if energy is not None and not np.isfinite(energy.value):
        raise InputError(
            f"`frames` must have one finite energy each, frame {index} has not; leave that frame out, or take the "
            "energies out of all."
        )


def _move(atoms: Atoms, frame: Atoms) -> None:
    atoms.set_cell(frame.cell)
    atoms.pbc = frame.pbc
    atoms.positions[:] = frame.positions
    atoms.set_momenta(frame.get_momenta(), apply_constraint=False)
