"""`run_md`: ordinary ASE dynamics with the log, the running averages and an exact restart attached."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.md import MolecularDynamics
from ase.md.verlet import VelocityVerlet

from ase_uq.averages.online import OnlineReweighter
from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.dynamics.keeper import Keeper, where_it_is
from ase_uq.dynamics.restart import RestartState, state_of_run, state_path
from ase_uq.dynamics.settings import MDSettings
from ase_uq.errors import InputError, Interrupted
from ase_uq.log.continuation import logged_interval
from ase_uq.log.definition import differences, told
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.owned import LogTakenError, OwnedLog
from ase_uq.log.reader import recorded
from ase_uq.observables import ObservableLike
from ase_uq.reweighting.result import ReweightResult

_messages = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """What the live line shows.

    `energy_std` in eV; `averages` are those of the running reweighing, empty while it has too few frames.
    """

    step: int
    steps: int
    ns_per_day: float
    temperature_K: float
    energy_std: float | None
    weight: float | None
    averages: Mapping[str, ReweightResult]


def run_md(
    atoms: Atoms,
    calculator: PredictionCalculator,
    settings: MDSettings,
    *,
    log: Path,
    observables: Mapping[str, ObservableLike],
    store: Sequence[str] = (),
    restart: bool = False,
    overwrite: bool = False,
    on_status: Callable[[Status], None] | None = None,
) -> Mapping[str, ReweightResult]:
    """Run molecular dynamics with uncertainty.

    Parameters
    ----------
    atoms
        Start; moved in place. Without momenta it gets Maxwell-Boltzmann ones.
    calculator
        `UQCalculator` or `WeightedBaseline`.
    settings
        How to run.
    log
        HDF5 file; the state for a restart is kept beside it, with `.restart` added to the name, from the first step on.
        Both carry the random name of the run.
    observables
        Name to what is logged and averaged, see `UncertaintyLogger`.
    store
        Per-atom data to log, see `UncertaintyLogger`.
    restart
        Go on from the log and its state; the trajectory is the one an uninterrupted run would have given.
    overwrite
        Replace an existing log.
    on_status
        Called about twice a second.

    Returns
    -------
    dict
        Name -> running average of the whole run, parts before a restart included; empty for a model without members.

    Raises
    ------
    InputError
        For a log that exists, that another process writes, or, with `restart`, that is of another run.
    LogTakenError
        If the log was deleted or replaced meanwhile; its frames are kept.
    Interrupted
        For a `KeyboardInterrupt`: says where the log is and how to go on.
    """
    rng = np.random.default_rng(settings.seed)
    atoms.calc = calculator
    with OwnedLog(log) as own:
        _check_name(log, restart=restart, overwrite=overwrite)
        state = state_of_run(log) if restart else None
        done = _go_on(atoms, rng, state, settings, log)
        dynamics = _dynamics(atoms, settings, rng)
        # Counted on, so that frames stay at multiples of the interval.
        dynamics.nsteps = done
        logger = UncertaintyLogger(
            own,
            atoms,
            dyn=dynamics,
            temperature_K=settings.temperature_K,
            observables=observables,
            ensemble=settings.ensemble,
            store=store,
            append=state is not None,
            overwrite=overwrite or (restart and state is None),
            # The log may be ahead of its state by any number of frames, also of a state at step 0.
            start_step=None if state is None else done,
        )
        with logger:
            online = None
            if observables:
                online = _online(atoms, dynamics, settings, observables)
                dynamics.attach(_Averaging(calculator, online), interval=settings.steps_between_averaged)
            dynamics.attach(logger, interval=settings.interval)
            if state is not None:
                _check_definition(state, logger)
                if online is not None:
                    _recall(online, log, done, settings)
            keeper = Keeper(atoms, logger, rng)
            _steps(dynamics, settings, keeper, _Reporter(on_status, atoms, online, settings, done))
    return _averages(online)


def _check_name(log: Path, *, restart: bool, overwrite: bool) -> None:
    if restart and overwrite:
        raise InputError("`restart` and `overwrite` exclude each other, got both; choose one.")
    if not log.exists() or restart or overwrite:
        return
    way = "go on with it by restart=True, or " if state_path(log).exists() else ""
    raise InputError(f"`log` must not exist yet, {log} does; {way}replace it by overwrite=True, or name another.")


def _go_on(atoms: Atoms, rng: np.random.Generator, state: RestartState | None, settings: MDSettings, log: Path) -> int:
    """Put the state onto the atoms, or initial velocities where there is none; return the steps done."""
    if state is None:
        if not atoms.has("momenta"):
            # Maxwell-Boltzmann: ASE has renamed its function for it between the versions we support.
            spread = np.sqrt(atoms.get_masses() * units.kB * settings.temperature_K)
            atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread[:, None])
        return 0
    state.apply(atoms, rng)
    _check_interval(log, settings.interval)
    if state.step >= settings.steps:
        raise InputError(f"`steps` must exceed the {state.step} steps already done, got {settings.steps}; raise it.")
    return state.step


def _check_definition(state: RestartState, logger: UncertaintyLogger) -> None:
    found = told(differences(state.definition, logger.definition))
    if found:
        raise InputError(
            f"`restart` needs what the run of {logger.path} was started with, it differs in {found}; give the same, "
            "or another log."
        )


def _check_interval(log: Path, interval: int) -> None:
    logged = logged_interval(log)
    if logged is not None and logged != interval:
        raise InputError(
            f"`interval` must be that of the log a restart continues, {log} has a frame every {logged} steps, got "
            f"{interval}; averages weigh frames alike."
        )


def _dynamics(atoms: Atoms, settings: MDSettings, rng: np.random.Generator) -> MolecularDynamics:
    timestep = settings.timestep_fs * units.fs
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    # fixcm would sample a slightly wrong distribution; the centre of mass may move.
    friction = settings.friction_per_ps / (1000.0 * units.fs)
    return Langevin(atoms, timestep, temperature_K=settings.temperature_K, friction=friction, fixcm=False, rng=rng)


def _steps(dynamics: MolecularDynamics, settings: MDSettings, keeper: Keeper, reporter: _Reporter) -> None:
    """Do the steps that are left; whatever ends them, what was done is kept."""
    try:
        try:
            done = dynamics.nsteps
            if done:
                # As the interrupted run did at this step: the same evaluations in the same order.
                dynamics.atoms.get_forces()
                dynamics.call_observers()
            for _ in dynamics.irun(settings.steps - done):
                keeper(dynamics.nsteps)
                reporter(dynamics.nsteps)
        except LogTakenError as error:
            keeper.follow(error)
            raise
        finally:
            # Also when interrupted between two steps.
            keeper.keep()
    except KeyboardInterrupt:
        raise Interrupted(where_it_is(keeper.log, keeper.step, settings.steps)) from None


def _online(
    atoms: Atoms, dynamics: MolecularDynamics, settings: MDSettings, observables: Mapping[str, ObservableLike]
) -> OnlineReweighter:
    return OnlineReweighter(atoms, temperature_K=settings.temperature_K, observables=observables, dyn=dynamics)


def _recall(online: OnlineReweighter, log: Path, done: int, settings: MDSettings) -> None:
    """Take what the log has of earlier parts, so that averages are those of the whole run."""
    run = recorded(log, per_atom=False)
    seen = (run.step < done) & (run.step % settings.steps_between_averaged == 0)
    if run.energy_members is not None and seen.any():
        online.take_logged(run, np.flatnonzero(seen))


class _Averaging:
    """Takes frames for the averages, if the model turns out to have members."""

    def __init__(self, calculator: PredictionCalculator, online: OnlineReweighter) -> None:
        self.calculator, self.online, self._said = calculator, online, False

    def __call__(self) -> None:
        if self.calculator.prediction.energy_members is not None:
            self.online()
        elif not self._said:
            _messages.warning(
                "running averages need `energy_members`, which this model does not provide; the observables are logged"
            )
            self._said = True


class _Reporter:
    """Calls back about twice a second, and at the end."""

    def __init__(
        self,
        on_status: Callable[[Status], None] | None,
        atoms: Atoms,
        online: OnlineReweighter | None,
        settings: MDSettings,
        done: int,
    ) -> None:
        self.on_status, self.atoms, self.online, self.settings, self.done = on_status, atoms, online, settings, done
        self._began = time.monotonic()
        self._next = 0.0

    def __call__(self, step: int) -> None:
        now = time.monotonic()
        last = step >= self.settings.steps
        if self.on_status is None or (now < self._next and not last):
            return
        self._next = now + 0.5
        days = max(now - self._began, 1e-9) / 86400.0
        calculator: Any = self.atoms.calc
        self.on_status(
            Status(
                step,
                self.settings.steps,
                (step - self.done) * self.settings.timestep_fs * 1e-6 / days,
                float(self.atoms.get_temperature()),
                calculator.prediction.energy_std,
                calculator.results.get("weight"),
                _averages(self.online, numbers_only=True),
            )
        )


def _averages(online: OnlineReweighter | None, *, numbers_only: bool = False) -> Mapping[str, ReweightResult]:
    return online.results(numbers_only=numbers_only) if online is not None and online.n_frames else {}
