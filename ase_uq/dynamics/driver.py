"""`run_md`: ordinary ASE dynamics with the log, the running averages and an exact restart attached."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.md.md import MolecularDynamics

from ase_uq.averages.online import OnlineReweighter
from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.dynamics.integrators import Integrator, integrator_of
from ase_uq.dynamics.keeper import Keeper, where_it_is
from ase_uq.dynamics.restart import RestartState, read_restart, state_of_run, state_path
from ase_uq.dynamics.settings import MDSettings
from ase_uq.dynamics.stages import schedule_of, temperature_at, whole_steps
from ase_uq.dynamics.status import Averaging, Reporter, averages_of
from ase_uq.dynamics.status import Status as Status
from ase_uq.dynamics.trajectory import TrajectoryFile
from ase_uq.dynamics.watch import ExplodedError, Watch
from ase_uq.errors import InputError, Interrupted, NotFiniteError
from ase_uq.log.continuation import logged_interval, run_id_of
from ase_uq.log.definition import differences, told
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.owned import LogTakenError, OwnedLog
from ase_uq.log.reader import recorded
from ase_uq.observables import ObservableLike, pressure_gpa
from ase_uq.reweighting.result import ReweightResult

_messages = logging.getLogger(__name__)


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
    traj: Path | None = None,
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
        Name to what is logged and averaged, see `UncertaintyLogger`; at constant pressure the pressure comes on top, as
        `pressure_GPa`.
    store
        Per-atom data to log, see `UncertaintyLogger`; at constant pressure the cell comes with the positions.
    restart
        Go on from the log and its state; the trajectory is the one an uninterrupted run would have given.
    overwrite
        Replace an existing log, and an existing trajectory.
    traj
        Also write the frames of the log as a trajectory of ASE: .traj, .xyz or .extxyz.
    on_status
        Called about twice a second.

    Returns
    -------
    dict
        Name -> running average of the whole run, parts before a restart included; empty for a model without
        members, and for a run whose temperature changes.

    Raises
    ------
    InputError
        For a log that exists, that another process writes, or, with `restart`, that is of another run; for atoms or a
        model that cannot be run at constant pressure.
    RunError
        For a disk that is full, or a trajectory that was deleted meanwhile.
    LogTakenError
        If the log was deleted or replaced meanwhile; its frames are kept.
    Interrupted
        For a `KeyboardInterrupt`: says where the log is and how to go on.
    RunError
        For a run that explodes; its frames are kept, and averages over its log say so.
    """
    rng = np.random.default_rng(settings.seed)
    atoms.calc = calculator
    integrator, observables = integrator_of(settings), _with_pressure(observables, settings)
    with OwnedLog(log) as own:
        _check_name(log, restart=restart, overwrite=overwrite)
        state = state_of_run(log) if restart else None
        begun = _has_log(state, log)
        done = _go_on(atoms, rng, state, settings, log if begun else None)
        with _trajectory(traj, log, state, overwrite=overwrite or (restart and state is None)) as trajectory:
            dynamics = integrator.made(atoms, settings, rng)
            # Counted on, so that frames stay at multiples of the interval.
            dynamics.nsteps = done
            logger = UncertaintyLogger(
                own,
                atoms,
                dyn=dynamics,
                temperature_K=_temperatures(settings),
                observables=observables,
                ensemble=settings.ensemble,
                store=_with_cell(store, settings),
                append=begun,
                overwrite=overwrite or (restart and not begun),
                start_step=done,
            )
            with logger:
                online = _observed(dynamics, logger, settings, trajectory)
                logger.define(schedule_of(settings))
                if state is not None:
                    logger.run_id = state.run_id or logger.run_id
                    _check_definition(state, logger)
                    integrator.restore(dynamics, state.integrator)
                    if online is not None and done > 0:
                        _recall(online, log, done, settings)
                keeper = Keeper(
                    atoms,
                    logger,
                    rng,
                    integrator=lambda: integrator.state(dynamics),
                    trajectory=trajectory,
                    replaces=_replaced(log, state, settings),
                )
                watch = Watch(dynamics, logger, settings, restart=begun)
                reporter = Reporter(on_status, atoms, online, settings, done)
                _steps(dynamics, settings, integrator, keeper, watch, reporter)
    return averages_of(online)


def _check_name(log: Path, *, restart: bool, overwrite: bool) -> None:
    if restart and overwrite:
        raise InputError("`restart` and `overwrite` exclude each other, got both; choose one.")
    if restart or overwrite:
        return
    if not log.exists():
        _check_no_equilibration(log)
        return
    way = "go on with it by restart=True, or " if state_path(log).exists() else ""
    raise InputError(f"`log` must not exist yet, {log} does; {way}replace it by overwrite=True, or name another.")


def _check_no_equilibration(log: Path) -> None:
    """Refuse to begin over a run that has no log yet."""
    try:
        step = read_restart(state_path(log)).step if state_path(log).exists() else 0
    except InputError:
        return
    if step < 0:
        raise InputError(
            f"`log` must not be that of a run in its equilibration, {log} is, {-step} steps before its first frame; go "
            "on with it by restart=True, or begin anew by overwrite=True."
        )


def _has_log(state: RestartState | None, log: Path) -> bool:
    """Whether there is a log to go on with: a run in its equilibration has none."""
    return state is not None and log.exists() and run_id_of(log) == state.run_id


def _replaced(log: Path, state: RestartState | None, settings: MDSettings) -> str:
    """Name of the run whose log stays until the equilibration of this one is over."""
    if not settings.equilibration_steps or not log.exists() or _has_log(state, log):
        return ""
    try:
        return run_id_of(log)
    except InputError:
        # It can be replaced whatever it is.
        return ""


def _trajectory(
    traj: Path | None, log: Path, state: RestartState | None, *, overwrite: bool
) -> TrajectoryFile | nullcontext[None]:
    record = None if state is None else state.trajectory
    if traj is not None:
        return TrajectoryFile(traj, log=log, record=record, overwrite=overwrite)
    if record is not None:
        raise InputError(
            f"`traj` must be given where the run wrote {record['name']} before, got none; name that file, or another "
            "one, which begins where the run goes on."
        )
    return nullcontext()


def _go_on(
    atoms: Atoms, rng: np.random.Generator, state: RestartState | None, settings: MDSettings, log: Path | None
) -> int:
    """Put the state onto the atoms, or initial velocities where there is none; return the step they are at."""
    if state is None:
        begin = -settings.equilibration_steps
        temperature_K = temperature_at(begin, settings)
        if not atoms.has("momenta"):
            # Maxwell-Boltzmann: ASE has renamed its function for it between the versions we support.
            spread = np.sqrt(atoms.get_masses() * units.kB * temperature_K)
            atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread[:, None])
        return begin
    state.apply(atoms, rng)
    if log is not None:
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


def _steps(
    dynamics: MolecularDynamics,
    settings: MDSettings,
    integrator: Integrator,
    keeper: Keeper,
    watch: Watch,
    reporter: Reporter,
) -> None:
    """Do the steps that are left; whatever ends them, what was done is kept."""
    try:
        try:
            for _ in whole_steps(dynamics, settings, integrator.heat):
                keeper(dynamics.nsteps)
                watch(dynamics.nsteps)
                reporter(dynamics.nsteps)
        except ExplodedError:
            keeper.forget_equilibration()
            raise
        except NotFiniteError as error:
            if keeper.step is None:
                raise
            exploded = watch.of_numbers(error, keeper.step)
            keeper.forget_equilibration()
            raise exploded from error
        except LogTakenError as error:
            keeper.follow(error)
            raise
        finally:
            # Also when interrupted between two steps.
            keeper.keep()
    except KeyboardInterrupt:
        raise Interrupted(where_it_is(keeper.log, keeper.step, settings.steps)) from None


def _with_pressure(observables: Mapping[str, ObservableLike], settings: MDSettings) -> Mapping[str, ObservableLike]:
    return {"pressure_GPa": pressure_gpa, **observables} if settings.ensemble == "npt" else observables


def _with_cell(store: Sequence[str], settings: MDSettings) -> Sequence[str]:
    # Positions in a cell that moves say nothing without it.
    return [*store, "cell"] if settings.ensemble == "npt" and "positions" in store and "cell" not in store else store


def _temperatures(settings: MDSettings) -> float | tuple[float, float]:
    own, end = settings.temperature_K, settings.temperature_end_K
    return own if end is None else (own, end)


def _observed(
    dynamics: MolecularDynamics, logger: UncertaintyLogger, settings: MDSettings, trajectory: TrajectoryFile | None
) -> OnlineReweighter | None:
    """Attach what looks at frames; return what averages them."""
    online, atoms = None, logger.atoms
    if logger.observables and settings.temperature_end_K is not None:
        _messages.warning("the temperature changes along the run, which has no averages then; observables are logged")
    elif logger.observables:
        online = OnlineReweighter(
            atoms, temperature_K=settings.temperature_K, observables=logger.observables, dyn=dynamics
        )
        dynamics.attach(Averaging(atoms.calc, online), interval=settings.steps_between_averaged)
    dynamics.attach(logger, interval=settings.interval)
    if trajectory is not None:
        dynamics.attach(trajectory.of(atoms, dynamics, settings.timestep_fs), interval=settings.interval)
    return online


def _recall(online: OnlineReweighter, log: Path, done: int, settings: MDSettings) -> None:
    """Take what the log has of earlier parts, so that averages are those of the whole run."""
    run = recorded(log, per_atom=False)
    seen = (run.step < done) & (run.step % settings.steps_between_averaged == 0)
    if run.energy_members is not None and seen.any():
        online.take_logged(run, np.flatnonzero(seen))
