"""`Keeper`: writes log and restart state of a run together, every few seconds and whenever it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_uq.dynamics.restart import RestartState, state_path
from ase_uq.dynamics.trajectory import TrajectoryFile
from ase_uq.errors import RunError
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.owned import LogTakenError

EVERY_SECONDS = 5.0


class Keeper:
    """Keeps the restart state and the log at the same step.

    Call it after every whole step: an interrupt in the middle of the next one cannot tear the state. The first call
    writes, so that a run can be gone on with from its first step on.

    Parameters
    ----------
    atoms, rng
        Of the run.
    logger
        Names the run.
    integrator
        Gives what the integrator carries.
    trajectory
        Written together with the log.
    replaces
        See `RestartState`.
    """

    def __init__(
        self,
        atoms: Atoms,
        logger: UncertaintyLogger,
        rng: np.random.Generator,
        *,
        integrator: Callable[[], dict[str, NDArray[np.float64]]] = dict,
        trajectory: TrajectoryFile | None = None,
        replaces: str = "",
    ) -> None:
        self._atoms, self._logger, self._rng = atoms, logger, rng
        self._integrator, self._trajectory, self._replaces = integrator, trajectory, replaces
        self._path = state_path(logger.path)
        self._definition = logger.definition
        self._kept_at = -np.inf
        self._state: RestartState | None = None

    @property
    def log(self) -> Path:
        """Of the run."""
        return self._logger.path

    @property
    def step(self) -> int | None:
        """Last whole step; `None` before the first call."""
        return None if self._state is None else self._state.step

    def __call__(self, step: int) -> None:
        """Take the state, and write it when it is time."""
        self._state = RestartState.of(
            self._atoms,
            step=step,
            rng=self._rng,
            run_id=self._logger.run_id,
            definition=self._definition,
            integrator=self._integrator(),
            trajectory=None if self._trajectory is None else self._trajectory.record,
            replaces=self._replaces,
        )
        if time.monotonic() - self._kept_at > EVERY_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write the log, then the last state.

        Raises
        ------
        LogTakenError
            For a log that was deleted or replaced; the state is beside what was kept of it.
        RunError
            For a disk that is full.
        """
        if self._state is None:
            return
        # The log first: frames beyond the state are dropped on restart, frames missing before it would be lost.
        try:
            self._logger.flush()
        except LogTakenError as error:
            self.follow(error)
            self._write(self._state)
            raise
        if self._trajectory is not None:
            self._trajectory.flush()
        self._write(self._state)
        self._kept_at = time.monotonic()

    def forget_equilibration(self) -> None:
        """Remove the state of a run that has no log yet and is not to be gone on with: no log could say so."""
        if self._state is not None and self._state.step < 0:
            self._state = None
            self._path.unlink(missing_ok=True)

    def follow(self, error: LogTakenError) -> None:
        """Write the state beside the file that holds the frames now."""
        self._path = state_path(error.kept)

    def _write(self, state: RestartState) -> None:
        try:
            state.write(self._path)
        except OSError as error:
            raise RunError(
                f"the state {self._path} could not be written ({error.strerror}); the one of an earlier step is still "
                "there: make room, then go on with restart=True."
            ) from error


def where_it_is(log: Path, step: int | None, steps: int) -> str:
    """Return the sentence for a run that was interrupted."""
    if step is None:
        return f"interrupted before the first step; nothing was done yet, start again (log {log})"
    if step < 0:
        return (
            f"interrupted in the equilibration, {-step} steps before the first frame of the log {log}; go on from "
            "there with restart=True"
        )
    return f"interrupted after step {step} of {steps}; the log is {log}, go on from there with restart=True"
