"""`rerun`: the log of an old trajectory, with the uncertainties, and energies of members, that the run did not have.

The energies that the trajectory carries are those its integrator saw, of whatever potential that was: reweighing needs
them only up to a constant. Where frames carry a `free_energy`, that is what their forces were the gradient of. Without
energies the run is taken to have been driven by the mean of the members.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.errors import InputError
from ase_uq.log.definition import hash_of_model
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.observables import ObservableLike
from ase_uq.uncertainty.abilities import BatchModel
from ase_uq.uncertainty.prediction import DERIVATIVE_UNCERTAINTY, STANDARD, UNCERTAINTY, Prediction, UncertaintyModel

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
    forces_var: bool = True,
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
        Also the variance of forces; without it a model whose members share a body needs one backward pass a batch.
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
        For no frames, frames of different atoms, or energies in some frames only.
    """
    if not frames:
        raise InputError("`frames` must hold at least one structure, got none; check the trajectory.")
    first = _energy(frames[0])
    driver = "trajectory" if first is not None else "model"
    for index, frame in enumerate(frames):
        _check(frame, frames[0], index, None if first is None else first.name)
    atoms, replay = frames[0].copy(), _Replay(driver, model, frames[0])
    atoms.calc = replay
    options: dict[str, Any] = {"observables": observables, "store": store, "overwrite": overwrite}
    with UncertaintyLogger(
        path, atoms, temperature_K=temperature_K, timestep_fs=interval_fs, ensemble=ensemble, **options
    ) as log:
        for start in range(0, len(frames), batch_size):
            part = frames[start : start + batch_size]
            predictions = _predictions(model, part, forces_var=forces_var)
            for done, (frame, prediction) in enumerate(zip(part, predictions, strict=True), start + 1):
                _move(atoms, frame)
                replay.load(prediction, _energy(frame))
                atoms.get_potential_energy()
                log()
                if on_frame is not None:
                    on_frame(done)
    return driver


def _predictions(model: UncertaintyModel, structures: Sequence[Atoms], *, forces_var: bool) -> list[Prediction]:
    if isinstance(model, BatchModel):
        return model.predict_many(structures, forces_var=forces_var)
    wanted = ("energy", "forces", "stress", *(DERIVATIVE_UNCERTAINTY if forces_var else ()))
    found = [model.predict(atoms, wanted) for atoms in structures]
    return found if forces_var else [prediction.without_force_variance() for prediction in found]


class _Replay(PredictionCalculator):
    """Gives out what is already known."""

    def __init__(self, driver: str, model: UncertaintyModel, atoms: Atoms) -> None:
        super().__init__(
            [*STANDARD, *UNCERTAINTY],
            model=getattr(model, "description", type(model).__name__),
            model_hash=hash_of_model(model, atoms),
        )
        self.driver = driver
        self._next: tuple[Prediction, dict[str, Any]] | None = None

    def load(self, prediction: Prediction, energy: _Energy | None) -> None:
        self._next = (prediction, {} if energy is None else {"energy": energy.value})
        self.reset()

    def _predict(self, atoms: Atoms, properties: Sequence[str]) -> tuple[Prediction, Mapping[str, Any]]:  # noqa: ARG002
        assert self._next is not None
        return self._next


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
