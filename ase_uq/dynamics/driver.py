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
from ase_uq.dynamics.restart import RestartState, read_restart
from ase_uq.dynamics.settings import MDSettings
from ase_uq.errors import InputError
from ase_uq.log.continuation import logged_interval
from ase_uq.log.logger import UncertaintyLogger
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
        HDF5 file; the state for a restart is kept beside it, with `.restart` added to the name.
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
        Name -> running average of this part of the run; empty for a model without members.
    """
    rng = np.random.default_rng(settings.seed)
    state_path = log.with_name(log.name + ".restart")
    done, atoms.calc = 0, calculator
    if restart:
        state = read_restart(state_path)
        state.apply(atoms, rng)
        done = state.step
        _check_interval(log, settings.interval)
        if done >= settings.steps:
            raise InputError(f"`steps` must exceed the {done} steps already done, got {settings.steps}; raise it.")
    elif not atoms.has("momenta"):
        # Maxwell-Boltzmann: ASE has renamed its function for it between the versions we support.
        spread = np.sqrt(atoms.get_masses() * units.kB * settings.temperature_K)
        atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread[:, None])
    dynamics = _dynamics(atoms, settings, rng)
    # Counted on, so that frames stay at multiples of the interval.
    dynamics.nsteps = done
    online = None
    if observables:
        online = OnlineReweighter(atoms, temperature_K=settings.temperature_K, observables=observables, dyn=dynamics)
        dynamics.attach(_Averaging(calculator, online), interval=settings.average_interval)
    logger = UncertaintyLogger(
        log,
        atoms,
        dyn=dynamics,
        temperature_K=settings.temperature_K,
        observables=observables,
        ensemble=settings.ensemble,
        store=store,
        append=restart,
        overwrite=overwrite,
    )
    with logger:
        dynamics.attach(logger, interval=settings.interval)
        keeper = _Keeper(atoms, dynamics, logger, rng, state_path)
        try:
            if restart:
                # As the interrupted run did at this step: the same evaluations in the same order.
                atoms.get_forces()
                dynamics.call_observers()
            _steps(dynamics, settings.steps - done, keeper, _Reporter(on_status, atoms, online, settings, done))
        finally:
            # Also when interrupted between two steps: what was done is kept.
            keeper.keep()
    return _averages(online)


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


def _steps(dynamics: MolecularDynamics, steps: int, keeper: _Keeper, reporter: _Reporter) -> None:
    for _ in dynamics.irun(steps):
        reporter(dynamics.nsteps)
        keeper(dynamics.nsteps)


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


class _Keeper:
    """Keeps the restart state and the log at the same step, every few seconds."""

    def __init__(
        self,
        atoms: Atoms,
        dynamics: MolecularDynamics,
        logger: UncertaintyLogger,
        rng: np.random.Generator,
        path: Path,
    ) -> None:
        self.atoms, self.dynamics, self.logger, self.rng, self.path = atoms, dynamics, logger, rng, path
        self._last = time.monotonic()
        self._state: RestartState | None = None

    def __call__(self, step: int) -> None:
        # Taken after every whole step: an interrupt in the middle of the next one cannot tear it.
        self._state = RestartState.of(self.atoms, step=step, rng=self.rng)
        if time.monotonic() - self._last > 5.0:
            self.keep()
            self._last = time.monotonic()

    def keep(self) -> None:
        # The log first: frames beyond the state are dropped on restart, frames missing before it would be lost.
        if self._state is not None:
            self.logger.flush()
            self._state.write(self.path)


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
