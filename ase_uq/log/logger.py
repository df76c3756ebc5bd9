"""`UncertaintyLogger`: an observer of ASE dynamics that records energies, uncertainties and observables.

It reads what the calculator has in hand and never computes; `ase_uq.log.reader.read_log` reads the file.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import Any

import numpy as np
from ase import Atoms

from ase_uq.calculators.driven import driving_calculator
from ase_uq.errors import InputError
from ase_uq.log.arguments import check_arguments, check_names, check_path
from ase_uq.log.columns import EXPLODED
from ase_uq.log.continuation import check_same_run, exploded_in, last_step, n_to_keep, run_id_of
from ase_uq.log.definition import definition_of, interval_of
from ase_uq.log.ensembles import ensemble_attributes
from ase_uq.log.frame import attributes_of_run, columns_of, frame_of
from ase_uq.log.kept import finish, finish_at_exit, put_on_disk
from ase_uq.log.owned import LogTakenError, OwnedLog, signature_of
from ase_uq.log.ramp import temperature_attributes
from ase_uq.log.reader import VOLUME_TOLERANCE, open_log
from ase_uq.log.timestep import timestep_of
from ase_uq.log.writer import FrameWriter
from ase_uq.observables.observable import ObservableLike, named_observables
from ase_uq.observables.observing import Observing

_FLUSH_SECONDS = 5.0

logger = logging.getLogger(__name__)


class UncertaintyLogger:
    """Record a run in one HDF5 file; attach it to the dynamics.

    Parameters
    ----------
    path
        File to write. It appears with the first frame and can be read while it grows. A lock beside it, `NAME.lock`,
        keeps other writers away until the log is closed; an `OwnedLog` is one that the caller has taken.
    atoms
        The atoms that move, with a calculator of this package attached.
    dyn
        The dynamics the logger is attached to; gives the step number and the time step. Without it every call counts as
        one step and `timestep_fs` is needed.
    temperature_K
        Target temperature, K; a pair for a thermostat whose target goes linearly from the one to the other along the
        run, which has no averages then.
    observables
        Name to a function of the atoms that returns a number or an array of always the same shape, to a pair of that
        and its unit, as `{"distance": (lambda atoms: atoms.get_distance(0, 1), "Å")}`, or to an `Observable`, as those
        of `ase_uq.observables`.
    timestep_fs
        Time step, fs; taken from `dyn` when not given.
    ensemble
        "nve", "nvt", "npt" or "nph"; by default what the class of `dyn` samples, "nvt" where that is not known. With a
        barostat the target pressure of `dyn` is recorded, too, as `pressure_GPa`.
    store
        What else to keep of each frame, in single precision: any of "positions", "forces", "forces_var", "cell".
    append
        Continue the log at `path` after a restart; a missing file is begun.
    overwrite
        Replace the log at `path`. Without it and `append` an existing file is refused.
    start_step
        Step number of the current atoms. Defaults to the step of `dyn`, or to the last logged step when a log is
        continued with fresh dynamics. Later frames of a continued log are dropped.
    flush_every
        Frames kept in memory at most; they are also written every few seconds and at the last step of `dyn.run`.

    Raises
    ------
    InputError
        For arguments that break these rules, a log that another process writes or that is of another run, or, when
        called, atoms the calculator has not evaluated or an energy that is not finite.
    LogTakenError
        When frames are written, for a log that was deleted or replaced meanwhile; the frames are kept.

    Notes
    -----
    An observable that raises or returns nothing for a frame has NaN there, which is said and left out of averages.

    A frame logged twice, as the first one of restarted dynamics, is kept once. A log is continued at its own interval:
    averages weigh frames alike. Call `flush` before saving a checkpoint:
    then a restart from it loses no frame.

    Examples
    --------
    >>> import tempfile
    >>> from ase import units
    >>> from ase.build import bulk
    >>> from ase.calculators.lj import LennardJones
    >>> from ase.md.verlet import VelocityVerlet
    >>> from ase_uq.calculators.calculator import UQCalculator
    >>> from ase_uq.calculators.committee import CommitteeUncertainty
    >>> from ase_uq.log.reader import read_log
    >>> atoms = bulk("Ar", cubic=True)
    >>> atoms.calc = UQCalculator(CommitteeUncertainty([LennardJones(sigma=s, epsilon=0.01) for s in (3.3, 3.4)]))
    >>> dyn = VelocityVerlet(atoms, timestep=2 * units.fs)
    >>> path = tempfile.mkdtemp() + "/run.h5"
    >>> with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=80.0, ensemble="nve") as log:
    ...     dyn.attach(log)
    ...     _ = dyn.run(3)
    >>> run = read_log(path)
    >>> run.time_fs.tolist(), run.energy_members.shape
    ([0.0, 2.0, 4.0, 6.0], (4, 2))
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        atoms: Atoms,
        *,
        dyn: Any = None,
        temperature_K: float | tuple[float, float],
        observables: Mapping[str, ObservableLike] | None = None,
        timestep_fs: float | None = None,
        ensemble: str | None = None,
        store: Collection[str] = (),
        append: bool = False,
        overwrite: bool = False,
        start_step: int | None = None,
        flush_every: int = 100,
    ) -> None:
        self._own = path if isinstance(path, OwnedLog) else OwnedLog(path)
        self.path = self._own.path
        self.atoms = atoms
        self.dyn = dyn
        self.observables = named_observables(observables or {})
        check_names(self.observables)
        self._observing = Observing(self.observables)
        self.store = tuple(store)
        self._writer: FrameWriter | None = None
        self._closed = False
        # An observer may be called from several threads, and a frame is written by one.
        self._alone = threading.RLock()
        self._release: Callable[[], Any] = _nothing
        self._flush_every = flush_every
        self._settings: dict[str, Any] = {
            **temperature_attributes(temperature_K),
            "timestep_fs": timestep_of(dyn, timestep_fs),
            **ensemble_attributes(dyn, ensemble),
        }
        check_arguments(self._settings["ensemble"], self.store, start_step, flush_every)
        driving_calculator(atoms)
        if not self._own.taken:
            self._own.check_free()
        check_path(self.path, append=append, overwrite=overwrite)
        self._append, self._seen = append and self.path.exists(), signature_of(self._own.place)
        self.run_id = run_id_of(self.path) if self._append else uuid.uuid4().hex
        self._definition: dict[str, Any] | None = None
        self._first_step: int | None = None
        self._volume: float | None = None
        self._flushed_at = -np.inf  # the first frame is written at once
        self._interval = 1
        self._interval_before: int | None = None
        self._n_calls = 0
        n_steps = 0 if dyn is None else int(dyn.nsteps)
        if start_step is None:
            start_step = n_steps
            if self._append and n_steps == 0:
                start_step = last_step(self.path)
        self._start_step = start_step
        self._offset = self._start_step - n_steps

    def __call__(self) -> None:
        """Log the current frame."""
        with self._alone:
            self._log()

    def flush(self) -> None:
        """Write all frames so far; do this before saving a checkpoint."""
        with self._alone:
            if self._writer is None or self._closed:
                return
            try:
                put_on_disk(self._writer, self._own)
            except LogTakenError:
                self._writer.close()
                self._end()
                raise
            self._flushed_at = time.monotonic()

    def close(self) -> None:
        """Write all frames and close the file."""
        with self._alone:
            try:
                if self._writer is not None:
                    finish(self._writer, self._own)
            except LogTakenError:
                self._end()
                raise
            # Only now: what an interrupt or a full disk left in memory is written by another call, or at exit.
            self._end()

    def _log(self) -> None:
        if self._closed:
            raise InputError("`log` is closed, no frame can follow; construct another with append=True.")
        if self._definition is None:
            self.define()  # before observables are called: those that remember something are as they were made
        step = self._offset + (self._n_calls if self.dyn is None else int(self.dyn.nsteps))
        self._n_calls += 1
        if step == self._last_step:
            return
        if self._last_step is not None and step < self._last_step:
            raise InputError(
                f"`dyn` must count upwards, step {step} came after step {self._last_step}; "
                "construct another log with append=True for other dynamics."
            )
        frame = self._frame(step)
        if self._writer is None:
            self._begin(frame)
        if step != self._last_step:
            self._add(step, frame)

    def mark_exploded(self, found: str) -> bool:
        """Write all frames, and that the run has exploded: averages over the log then say so.

        Parameters
        ----------
        found
            What shows it, and at which step.

        Returns
        -------
        bool
            Whether there is a log that says it: before the first frame there is none.
        """
        with self._alone:
            self.flush()
            begun = self._writer is not None and not self._closed
            if self._writer is not None and begun:
                self._writer.mark_exploded(found)
        return begun

    @property
    def definition(self) -> dict[str, Any]:
        """What this run is, as the log and the state for a restart have it; see `ase_uq.log.definition`."""
        return self._definition if self._definition is not None else self._defined()

    def define(self, schedule: Mapping[str, Any] | None = None) -> None:
        """Settle what this run is, with its stages; once attached, before its driver changes any temperature."""
        self._definition = self._defined(schedule)

    def _defined(self, schedule: Mapping[str, Any] | None = None) -> dict[str, Any]:
        interval = interval_of(self.dyn, self)
        return definition_of(self.atoms, self.dyn, self.observables, interval=interval, schedule=schedule)

    def __enter__(self) -> UncertaintyLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _last_step(self) -> int | None:
        return None if self._writer is None else self._writer.last_step

    def _end(self) -> None:
        self._closed = True
        if self._writer is not None:
            self._finalizer.detach()
        self._release()

    def _add(self, step: int, frame: Mapping[str, Any]) -> None:
        assert self._writer is not None
        if self._last_step is not None:
            self._interval = step - self._last_step
            self._check_interval(step)
        self._writer.append(frame)
        late = time.monotonic() - self._flushed_at > _FLUSH_SECONDS
        if late or len(self._writer.pending) >= self._flush_every or self._is_last():
            self.flush()

    def _check_volume(self, volume: float) -> None:
        if self._volume is None:
            self._volume = volume
        elif abs(volume - self._volume) > VOLUME_TOLERANCE * self._volume and self._settings["ensemble"] in (
            "nvt",
            "nve",
        ):
            logger.warning("the volume moves, and the run is logged as %r", self._settings["ensemble"])
            self._volume = np.nan  # said once

    def _check_interval(self, step: int) -> None:
        """Refuse, at the second frame of this part, to go on with frames further apart or closer than before."""
        before, self._interval_before = self._interval_before, None
        if before is None:
            return
        if self._first_step is None:
            # The first gap may be that of an interruption.
            self._interval_before, self._first_step = before, step
        elif step - self._first_step != before:
            self.flush()
            raise InputError(
                f"`path` must be continued with frames as far apart as before, {self.path} has one every {before} steps"
                f", got {step - self._first_step}; attach the log with interval={before}, or log to another file."
            )

    def _is_last(self) -> bool:
        # No observer is told that a run has ended, but the dynamics knows how far it goes.
        end = getattr(self.dyn, "max_steps", None)
        return end is not None and self.dyn.nsteps + self._interval > end

    def _frame(self, step: int) -> dict[str, Any]:
        try:
            time_fs = step * self._settings["timestep_fs"]
            frame = frame_of(self.atoms, step, time_fs, observing=self._observing, store=self.store)
        except InputError:
            # What came before is worth keeping.
            self.flush()
            raise
        self._check_volume(frame["volume"])
        return frame

    def _begin(self, frame: Mapping[str, Any]) -> None:
        columns = columns_of(frame, self.observables)
        attributes = {**self._settings, **attributes_of_run(self.atoms, self.dyn)}
        attributes["definition"] = json.dumps(self.definition)
        if self.run_id:
            attributes["run_id"] = self.run_id
        if self._append:
            attributes[EXPLODED] = exploded_in(self.path)
        self._take()
        writer, damaged = None, False
        try:
            writer = FrameWriter(self._own.place, columns, attributes, flush_every=self._flush_every)
            if self._append:
                with open_log(self._own.place, stored=True) as old:
                    check_same_run(old, columns, attributes)
                    damaged = bool(old.damage)
                    kept = n_to_keep(old, self._start_step, frame)
                    writer.copy(old.datasets, kept)
                    steps = old.datasets["step"][max(kept - 11, 0) : kept]
                    self._interval_before = int(np.median(np.diff(steps))) if len(steps) > 1 else None
            writer.publish(keep_old=damaged)
        except BaseException:
            if writer is not None:
                writer.close()
            self._release()
            self._seen = signature_of(self._own.place)
            raise
        # Also runs when the interpreter exits, so that a log nobody closed is complete.
        self._finalizer = weakref.finalize(self, finish_at_exit, writer, self._own)
        self._writer = writer

    def _take(self) -> None:
        """Become the only writer, of the file that was there when this logger was made."""
        if self._own.taken:
            return
        self._own.take()
        self._release = weakref.finalize(self, self._own.release)
        if signature_of(self._own.place) != self._seen:
            self._release()
            raise InputError(
                f"`path` must be for this run alone, {self.path} was written since the logger was made; look at it, "
                "and start again with append=True or another name."
            )


def _nothing() -> None:
    """Release what the caller holds, which is the caller's to do."""
