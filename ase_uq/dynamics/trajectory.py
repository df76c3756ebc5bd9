"""`TrajectoryFile`: the frames of a log as a trajectory of ASE, which a restart goes on with frame by frame.

The state for a restart holds how many frames there were and how long the file was. What was written after it is taken
away before the run goes on, as it is in the log: no frame is there twice, and none is missing.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz
from ase.io.trajectory import Trajectory
from ase.io.ulm import InvalidULMFileError

from ase_uq.errors import InputError, RunError
from ase_uq.files import check_output
from ase_uq.locks import Lock
from ase_uq.log.companions import beside

_ULM_N_ITEMS = 32  # where a file of `ase.io.ulm` says how many items it has
_RESULTS = ("energy", "free_energy", "forces", "stress")


class _Format(Protocol):
    """A file that grows by frames."""

    n_bytes: int

    def write(self, atoms: Atoms) -> None:
        """Add a frame."""

    def flush(self) -> int:
        """Hand frames to the system; return the descriptor of the file."""

    def close(self) -> None:
        """Close without writing more."""


class TrajectoryFile:
    """Trajectory beside a log; attach it to the dynamics after the logger, and use it with `with`.

    Frames have energy, forces, stress and momenta, and `step`, `time_fs` and `energy_var` (eV^2) in `info`.

    Parameters
    ----------
    path
        Ends in .traj (to the last digit), .xyz or .extxyz (text).
    log
        Log of the run, another file.
    record
        What the state for a restart has of the trajectory; one of another name is left alone, and this one is begun.
    overwrite
        Replace an existing file.

    Raises
    ------
    InputError
        For a name of another kind, a file that exists or that another process writes, or, with its `record`, one that
        is not what the run wrote.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        log: Path,
        record: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        if self.path.suffix not in _FORMATS:
            raise InputError(f"`traj` must end in one of {', '.join(_FORMATS)}, got {self.path.name}; rename it.")
        own = record is not None and record["name"] == self.path.name
        self._n_frames, self._n_bytes, self._last = 0, 0, -1
        if own and record is not None:
            self._n_frames, self._n_bytes, self._last = (int(record[name]) for name in ("frames", "bytes", "last"))
        if self._n_frames == 0:
            check_output(self.path, overwrite=overwrite or own, inputs=[log])
        self._lock = Lock(beside(self.path, ".lock"), f"the run that writes `{self.path}`")
        self._file: _Format | None = None
        self._atoms: Atoms | None = None
        self._dynamics: Any = None
        self._fs = 0.0

    @property
    def record(self) -> dict[str, Any]:
        """What a restart needs to know of it."""
        n_bytes = self._n_bytes if self._file is None else self._file.n_bytes
        return {"name": self.path.name, "frames": self._n_frames, "bytes": n_bytes, "last": self._last}

    def of(self, atoms: Atoms, dynamics: Any, timestep_fs: float) -> TrajectoryFile:
        """Say which atoms are written; return itself."""
        self._atoms, self._dynamics, self._fs = atoms, dynamics, timestep_fs
        return self

    def __call__(self) -> None:
        """Write the present frame, unless it is there."""
        step = int(self._dynamics.nsteps)
        if step <= self._last:
            return
        assert self._atoms is not None
        frame = _frame(self._atoms, step, step * self._fs)
        try:
            self._opened().write(frame)
        except OSError as error:
            raise self._failed(error) from error
        self._n_frames, self._last = self._n_frames + 1, step

    def flush(self) -> None:
        """Hand all frames to the system; call it before a state is written that counts them.

        Raises
        ------
        RunError
            For a full disk, or a file that was deleted, moved or replaced.
        """
        if self._file is None:
            return
        try:
            own = os.fstat(self._file.flush())
        except OSError as error:
            raise self._failed(error) from error
        found = None
        with suppress(FileNotFoundError):
            found = self.path.stat()
        if found is None or (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino):
            raise RunError(
                f"the trajectory {self.path} was deleted, moved or replaced while the run wrote it, so the run has "
                "stopped; its log is whole: put the trajectory back, or name another one, and go on with restart=True."
            )

    def __enter__(self) -> TrajectoryFile:
        self._lock.__enter__()
        try:
            if self._n_frames:
                self._file = _FORMATS[self.path.suffix](self.path, self._n_frames, self._n_bytes)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        self._lock.__exit__(None, None, None)

    def _opened(self) -> _Format:
        if self._file is None:
            self._file = _FORMATS[self.path.suffix](self.path, 0, 0)
        return self._file

    def _failed(self, error: OSError) -> RunError:
        return RunError(
            f"the trajectory {self.path} could not be written ({error.strerror or error}); what is there is whole up "
            "to the state of the run: make room, then go on with restart=True."
        )


class _Text:
    """Extended XYZ: frames follow each other, so that a file cut after one is one with fewer."""

    def __init__(self, path: Path, n_frames: int, n_bytes: int) -> None:
        if n_frames and not (path.is_file() and path.stat().st_size >= n_bytes):
            raise _not_the_same(path, f"{n_bytes} bytes")
        self._file = path.open("r+b" if n_frames else "wb")
        self._file.truncate(n_bytes)
        self._file.seek(n_bytes)
        self.n_bytes = n_bytes

    def write(self, atoms: Atoms) -> None:
        text = io.StringIO()
        write_extxyz(text, [atoms])
        self.n_bytes += self._file.write(text.getvalue().encode())

    def flush(self) -> int:
        self._file.flush()
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()


class _Binary:
    """ASE's own format, whose header says how many frames there are; what is behind them is not read."""

    n_bytes = 0

    def __init__(self, path: Path, n_frames: int, n_bytes: int) -> None:  # noqa: ARG002
        if n_frames:
            _take_away_frames(path, n_frames)
        self._writer = Trajectory(path, "a" if n_frames else "w")

    def write(self, atoms: Atoms) -> None:
        self._writer.write(atoms)

    def flush(self) -> int:
        # Every frame has been handed over as it was written.
        return int(self._writer.backend.fd.fileno())

    def close(self) -> None:
        # Its own way to close would add a frame that an interrupt has left unfinished.
        self._writer.backend.fd.close()


_FORMATS: dict[str, type[_Text | _Binary]] = {".traj": _Binary, ".xyz": _Text, ".extxyz": _Text}


def _take_away_frames(path: Path, n_frames: int) -> None:
    try:
        with Trajectory(path) as there:
            n_there = len(there)
    except (OSError, InvalidULMFileError, ValueError) as error:
        raise _not_the_same(path, f"{n_frames} frames") from error
    if n_there < n_frames:
        raise _not_the_same(path, f"{n_frames} frames")
    if n_there > n_frames:
        with path.open("r+b") as file:
            file.seek(_ULM_N_ITEMS)
            file.write(np.array(n_frames, "<i8").tobytes())
        with Trajectory(path) as there:
            assert len(there) == n_frames


def _not_the_same(path: Path, length: str) -> InputError:
    return InputError(
        f"`traj` must be the file that the run wrote, with at least {length}, and {path} is not; put it back, or name "
        "another one, which begins where the run goes on."
    )


def _frame(atoms: Atoms, step: int, time_fs: float) -> Atoms:
    """Return what is written of the present frame, with the results that are there."""
    results = atoms.calc.results
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, momenta=atoms.get_momenta())
    frame.set_masses(atoms.get_masses())
    frame.info = {"step": step, "time_fs": time_fs}
    if "energy_var" in results:
        frame.info["energy_var"] = float(results["energy_var"])
    frame.calc = SinglePointCalculator(frame, **{name: results[name] for name in _RESULTS if name in results})
    return frame
