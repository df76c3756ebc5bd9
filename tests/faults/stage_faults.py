"""Faults of runs at constant pressure, in their equilibration, along ramps, and with a trajectory beside the log."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from ase_uq import UQCalculator, read_log, reweight_log
from ase_uq.dynamics.restart import read_restart, state_path
from tests.faults.fault import Fault
from tests.faults.run_faults import SAME, differs, started, told
from tests.faults.runs import at_step, go, same
from tests.made import argon


def argon_at_pressure(**changes: Any) -> dict[str, Any]:
    """Makers of the arguments of a run at constant pressure."""
    settings = {"ensemble": "npt", "timestep_fs": 4.0, "temperature_K": 40.0, "pressure_GPa": 0.1, **changes}
    makers = {name: functools.partial(_itself, value) for name, value in settings.items()}
    return {"atoms": argon.crystal, "calculator": lambda: UQCalculator(argon.PairMembers()), **makers}


def _itself(value: Any) -> Any:
    return value


def pressure_of_a_molecule(folder: Path) -> str:
    found = told(lambda: go(folder / "run.h5", 20, ensemble="npt"))
    assert not list(folder.iterdir())
    return found


def longer_ramp(folder: Path) -> str:
    path = started(folder, temperature_end_K=500.0)
    return told(lambda: go(path, 60, restart=True, temperature_end_K=500.0))


def averaged_ramp(folder: Path) -> str:
    path = started(folder, temperature_end_K=500.0)
    return told(lambda: reweight_log(path, ["d"]))


def interrupted_early(folder: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    told(lambda: go(folder / "run.h5", 30, equilibration_steps=50, on_status=at_step(-50, stop)))
    assert not (folder / "run.h5").exists()


def equilibration_begun_anew(folder: Path) -> str:
    interrupted_early(folder)
    found = told(lambda: go(folder / "run.h5", 30, equilibration_steps=50))
    go(folder / "run.h5", 30, equilibration_steps=50, restart=True)
    go(folder / "whole.h5", 30, equilibration_steps=50)
    same(folder / "run.h5", folder / "whole.h5")
    return found


def equilibration_over_a_log(folder: Path) -> str:
    """A run is over; one over it, with an equilibration, is interrupted in it: the old log is there, and its end."""
    path = started(folder, seed=1)

    def stop() -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"equilibration_steps": 50}
    found = told(lambda: go(path, 30, overwrite=True, on_status=at_step(-50, stop), **options))
    assert read_log(path).n_frames == 31
    go(path, 40, restart=True, **options)
    go(folder / "whole.h5", 40, **options)
    same(path, folder / "whole.h5")
    return found


def trajectory_taken_away(folder: Path) -> str:
    path, traj = folder / "run.h5", folder / "run.xyz"
    found = told(
        lambda: go(path, 5000, traj=traj, on_status=at_step(1, lambda: traj.rename(folder / "moved") and None))
    )
    done = read_restart(state_path(path)).step
    (folder / "moved").rename(traj)
    go(path, done + 20, restart=True, traj=traj)
    go(folder / "whole.h5", done + 20, traj=folder / "whole.xyz")
    assert traj.read_bytes() == (folder / "whole.xyz").read_bytes()
    return found


def without_its_trajectory(folder: Path) -> str:
    path = started(folder, traj=folder / "run.traj")
    return told(lambda: go(path, 60, restart=True))


FAULTS = [
    differs("another pressure", argon_at_pressure(), argon_at_pressure(pressure_GPa=0.2), "dynamics.pressure_GPa"),
    differs("another barostat time", argon_at_pressure(), argon_at_pressure(barostat_fs=500.0), "dynamics.barostat_fs"),
    differs("another barostat", argon_at_pressure(), argon_at_pressure(barostat="langevin"), "dynamics.class"),
    differs("another equilibration", SAME, {"equilibration_steps": lambda: 10}, "schedule.equilibration_steps"),
    differs("a ramp", SAME, {"temperature_end_K": lambda: 400.0}, "schedule.temperature_end_K"),
    Fault("restart of a ramp with other steps", "run", longer_ramp, r"exit 2: .*schedule.steps \(30 there, 60 here"),
    Fault("averages of a ramp", "run", averaged_ramp, "exit 2: .*went from 300 K to 500 K"),
    Fault("constant pressure of a molecule", "run", pressure_of_a_molecule, "exit 2: .*periodic in three directions"),
    Fault("a new run where one is in its equilibration", "run", equilibration_begun_anew, "exit 2: .*restart=True"),
    Fault("Ctrl-C in the equilibration over an old log", "run", equilibration_over_a_log, "exit 130: .*equilibration"),
    Fault("the trajectory is moved under the run", "run", trajectory_taken_away, "exit 1: the trajectory .*moved"),
    Fault("restart without the trajectory", "run", without_its_trajectory, "exit 2: `traj` must be given"),
]
