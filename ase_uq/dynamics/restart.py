"""The state of a run, so that it can go on exactly where it stopped."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.errors import InputError
from ase_uq.files import replacing
from ase_uq.log.companions import beside
from ase_uq.log.continuation import last_step, run_id_of

_OF_INTEGRATOR = "integrator/"
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OverflowError,
    EOFError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
_MOST_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class RestartState:
    """Phase-space point, step and random numbers to come.

    Attributes
    ----------
    step
        Steps done since the first frame of the run; negative in its equilibration.
    positions, momenta, cell
        (N, 3), (N, 3), (3, 3), ASE units, float64 to the last bit.
    numbers
        (N,), to tell whether the restart belongs to the structure.
    rng
        State of the bit generator of the thermostat.
    calculator
        What `run_state` of the calculator gave: the phase and the random numbers of its force variances.
    run_id
        That of the log it belongs to; "" for a log of an earlier version.
    definition
        What the run is, see `ase_uq.log.definition`.
    integrator
        What the integrator carries beside the atoms, by the names of its attributes.
    trajectory
        What `TrajectoryFile.record` returned, or `None` for a run without one.
    replaces
        The `run_id` of the log that this run, still in its equilibration, is going to replace; "" for none.
    """

    step: int
    positions: NDArray[np.float64]
    momenta: NDArray[np.float64]
    cell: NDArray[np.float64]
    numbers: NDArray[np.int64]
    rng: dict[str, object]
    calculator: dict[str, Any] = field(default_factory=dict)
    run_id: str = ""
    definition: dict[str, Any] = field(default_factory=dict)
    integrator: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    trajectory: dict[str, Any] | None = None
    replaces: str = ""

    @classmethod
    def of(cls, atoms: Atoms, *, step: int, rng: np.random.Generator, **known: Any) -> RestartState:
        """Take the present state, of atoms whose calculator has evaluated them; `known` are further attributes."""
        calculator = atoms.calc
        return cls(
            step,
            atoms.get_positions(),
            atoms.get_momenta(),
            atoms.cell.array.copy(),
            atoms.numbers.astype(np.int64),
            dict(rng.bit_generator.state),
            calculator.run_state() if isinstance(calculator, PredictionCalculator) else {},
            **known,
        )

    def apply(self, atoms: Atoms, rng: np.random.Generator) -> None:
        """Put the state onto `atoms`, their calculator and `rng`.

        Raises
        ------
        InputError
            If the atoms are others.
        """
        if not np.array_equal(atoms.numbers, self.numbers):
            raise InputError("`restart` needs the structure the run was started with; the elements differ.")
        atoms.set_cell(self.cell)
        # Constraints would move what is being restored.
        atoms.set_positions(self.positions, apply_constraint=False)
        atoms.set_momenta(self.momenta, apply_constraint=False)
        rng.bit_generator.state = self.rng
        if isinstance(atoms.calc, PredictionCalculator):
            try:
                atoms.calc.restore_run_state(self.calculator)
            except _UNREADABLE as error:
                raise InputError(
                    "`restart` needs a whole state file, what it says of the variances of forces cannot be read; put a "
                    "whole copy of it back, or run anew under another log name."
                ) from error

    def write(self, path: Path) -> None:
        """Write to `path`, whole or not at all."""
        of_integrator: dict[str, Any] = {_OF_INTEGRATOR + name: value for name, value in self.integrator.items()}
        with replacing(path) as aside, aside.open("wb") as file:
            np.savez(
                file,
                step=self.step,
                positions=self.positions,
                momenta=self.momenta,
                cell=self.cell,
                numbers=self.numbers,
                rng=json.dumps(self.rng),
                calculator=json.dumps(self.calculator, default=lambda array: array.tolist()),
                run_id=self.run_id,
                definition=json.dumps(self.definition),
                trajectory=json.dumps(self.trajectory),
                replaces=self.replaces,
                **of_integrator,
            )


def state_path(log: Path) -> Path:
    """Return where the state of the run with this log is."""
    return beside(log, ".restart")


def read_restart(path: Path) -> RestartState:
    """Read a state.

    Raises
    ------
    InputError
        If there is none, or it cannot be read.
    """
    if not path.is_file():
        raise InputError(f"`restart` needs the state file {path}, and there is none; start without restart=True.")
    try:
        state = _read(path)
    except _UNREADABLE as e:
        raise InputError(
            f"the state file {path} could not be read; put a whole copy of it back, or run anew under another log name."
        ) from e
    return state


def _read(path: Path) -> RestartState:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
        if sum(each.file_size for each in data.zip.infolist()) > _MOST_BYTES:
            raise ValueError("no state is that large")
        state = RestartState(
            _whole_number(data["step"]),
            data["positions"],
            data["momenta"],
            data["cell"],
            data["numbers"],
            json.loads(str(data["rng"])),
            json.loads(str(data["calculator"])) if "calculator" in data else {},
            str(data["run_id"]) if "run_id" in data else "",
            json.loads(str(data["definition"])) if "definition" in data else {},
            {name.removeprefix(_OF_INTEGRATOR): data[name] for name in data if name.startswith(_OF_INTEGRATOR)},
            json.loads(str(data["trajectory"])) if "trajectory" in data else None,
            str(data["replaces"]) if "replaces" in data else "",
        )
    n_atoms = len(state.numbers)
    if state.numbers.shape != (n_atoms,) or state.numbers.dtype.kind not in "iu":
        raise ValueError(state.numbers)
    for array, shape in ((state.positions, (n_atoms, 3)), (state.momenta, (n_atoms, 3)), (state.cell, (3, 3))):
        if array.shape != shape or array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(array)
    for name, array in state.integrator.items():
        if array.dtype != np.float64 or not np.isfinite(array).all():
            raise ValueError(name)
    if not all(isinstance(each, dict) for each in (state.calculator, state.definition, state.trajectory or {})):
        raise TypeError(state.definition)
    if state.step < -int(state.definition.get("schedule", {}).get("equilibration_steps", 0)):
        raise ValueError(state.step)
    # Refuses what is no state of a generator.
    np.random.default_rng().bit_generator.state = state.rng
    return state


def _whole_number(value: NDArray[Any]) -> int:
    if value.shape != () or value.dtype.kind not in "iu":
        raise ValueError(value)
    return int(value)


def state_of_run(log: Path) -> RestartState | None:
    """Read the state that belongs to a log; `None` for a run that was stopped before it did a step.

    A run has no log before its first frame: in its equilibration there is none, or one that it is going to replace.

    Raises
    ------
    InputError
        If log and state are not of one run, or one of them is missing.
    """
    path = state_path(log)
    state = read_restart(path) if path.exists() else None
    if not log.exists():
        if state is None:
            return read_restart(path)
        if state.step > 0:
            raise InputError(
                f"`restart` needs the log {log}, and there is none, only its state at step {state.step}; put the log "
                "back, or start without restart=True."
            )
        return state
    logged = run_id_of(log)
    if state is not None and (state.run_id == logged or (state.step <= 0 and state.replaces == logged != "")):
        return state
    if last_step(log) == 0:
        # Stopped between its first frame and its first state.
        return None
    problem = "is missing" if state is None else "belongs to another run"
    raise InputError(
        f"`restart` needs the log and the state file of one run, for the log {log} the state file {path} {problem}; "
        "put the one back that belongs to the log, run under another log name, or replace the log: overwrite=True, "
        "without restart=True."
    )
