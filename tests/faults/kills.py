"""Runs that are killed at random moments and gone on with are the uninterrupted ones, bit for bit.

    python -m tests.faults.kills --kills 50

kills runs of every kind (thermostat, barostat or none, stages, kinds of members and of force variances, baseline,
averages, trajectories) with SIGKILL at random moments after their first state, 50 times in all, and compares log,
averages and trajectory with those of a run that nobody killed. Without `--kills` two of each kind.
"""

from __future__ import annotations

import argparse
import os
import pickle
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read

from ase_uq import CommitteeUncertainty, UQCalculator, WeightedBaseline, read_log
from ase_uq.dynamics import keeper
from ase_uq.dynamics.driver import MDSettings, run_md
from ase_uq.dynamics.restart import state_path
from ase_uq.models.members import MemberUncertainty
from ase_uq.observables import parse_observables
from ase_uq.potentials import make_variational, sample_members
from tests.made import argon
from tests.made.potentials import ensemble, potential, shallow

TINY = {"elements": ("H", "O"), "cutoff": 3.0, "channels": 4, "radial_width": 8, "n_layers": 1, "l_max": 1}
LJ = {"epsilon": 0.01, "sigma": 1.0}
SERIES = ("step", "energy", "kinetic_energy", "volume", "energy_var", "force_std_max", "force_std_mean", "weight")


def committee() -> UQCalculator:
    return UQCalculator(CommitteeUncertainty([LennardJones(sigma=s, epsilon=0.01) for s in (0.9, 1.0, 1.1)]))


def members(made: Any, **options: Any) -> UQCalculator:
    return UQCalculator(MemberUncertainty(made), **options)


def blip() -> Any:
    return sample_members(make_variational(potential(**TINY), inputs="pair"), n_members=3, seed=5)


def blip_of_readouts() -> Any:
    return sample_members(make_variational(potential(**TINY), layers=("readout",)), n_members=4, seed=5)


def blended() -> WeightedBaseline:
    inner = members(shallow(**TINY), forces_var="stochastic", every=3)
    return WeightedBaseline(inner, LennardJones(**LJ), sigma_baseline=0.5, offsets={"H": 0.0, "O": 0.0})


def argon_on_a_baseline() -> WeightedBaseline:
    baseline = LennardJones(sigma=3.4, epsilon=0.0104, rc=argon.CUTOFF)
    return WeightedBaseline(UQCalculator(argon.PairMembers()), baseline, sigma_baseline=0.5, offsets={"Ar": 0.0})


NVE: dict[str, Any] = {"ensemble": "nve"}
NPT: dict[str, Any] = {"ensemble": "npt", "timestep_fs": 4.0, "pressure_GPa": 0.1, "temperature_K": 60.0}
HEATED: dict[str, Any] = {"equilibration_steps": 150, "temperature_start_K": 30.0}
Kind = tuple[Callable[[], Any], dict[str, Any]]
KINDS: dict[str, Kind] = {
    "nvt": (committee, {}),
    "nve": (committee, NVE),
    "nvt, a frame every 7 steps": (committee, {"interval": 7}),
    "deep": (lambda: members(ensemble(2, **TINY)), {}),
    "shallow, stochastic every 4": (lambda: members(shallow(**TINY), forces_var="stochastic", every=4), {}),
    "shallow, low rank every 2": (
        lambda: members(shallow(**TINY), forces_var="low_rank", every=2),
        {"ensemble": "nve"},
    ),
    "BLIP": (lambda: members(blip()), {}),
    "BLIP of the readouts, stochastic": (lambda: members(blip_of_readouts(), forces_var="stochastic"), {}),
    "shallow over a baseline": (blended, {}),
    "npt": (lambda: UQCalculator(argon.PairMembers()), NPT),
    "npt, stochastic barostat": (lambda: UQCalculator(argon.PairMembers()), {**NPT, "barostat": "langevin"}),
    "npt over a baseline, equilibrated": (argon_on_a_baseline, {**NPT, "equilibration_steps": 40}),
    "equilibration": (committee, {**HEATED, "interval": 3}),
    "a ramp after an equilibration": (committee, {**HEATED, "temperature_end_K": 900.0}),
    "a ramp of npt": (lambda: UQCalculator(argon.PairMembers()), {**NPT, "temperature_end_K": 120.0, "interval": 5}),
}
# Kinds with a trajectory beside the log.
WRITTEN = {"npt": ".xyz", "npt, stochastic barostat": ".traj", "equilibration": ".traj", "a ramp of npt": ".extxyz"}


def go(kind: str, path: Path, steps: int, *, restart: bool = False) -> Any:
    """Run, or go on, and return the averages."""
    make, changes = KINDS[kind]
    settings = MDSettings(**{"temperature_K": 300.0, "timestep_fs": 0.2, "seed": 3, "steps": steps, **changes})
    atoms = argon.crystal() if settings.ensemble == "npt" else molecule("H2O")
    if kind == "nve":
        atoms.set_constraint(FixAtoms([0]))
    observables = parse_observables(["d=distance:0,1", "histogram:distance:0,2,0.7,1.3,10"], atoms)
    traj = path.with_suffix(WRITTEN[kind]) if kind in WRITTEN else None
    return run_md(atoms, make(), settings, log=path, observables=observables, restart=restart, traj=traj)


def in_a_child(work: Callable[[], Any], result: Path) -> int:
    """Start work in a process of its own, which leaves what comes of it in a file; return its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        # Short runs: the state is written more often than every five seconds.
        keeper.EVERY_SECONDS = 0.02
        result.write_bytes(pickle.dumps(work()))
        code = 0
    finally:
        os._exit(code)


def killed(kind: str, folder: Path, *, kills: int, steps: int, rng: np.random.Generator) -> str:
    """Kill a run so many times, let it end, and compare; return what happened."""
    began = time.monotonic()
    whole = go(kind, folder / "whole.h5", steps)
    length = time.monotonic() - began
    path, result = folder / "killed.h5", folder / "averages"
    done = 0
    for start in range(1000):
        restart = start > 0
        child = in_a_child(lambda restart=restart: go(kind, path, steps, restart=restart), result)
        if done < kills:
            while not state_path(path).exists() and os.waitpid(child, os.WNOHANG) == (0, 0):
                time.sleep(0.002)
            time.sleep(float(rng.uniform(0.0, 1.5 * length / (kills + 1))))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            done += 1
            if path.exists():  # a run in its equilibration has no log
                read_log(path)
            continue
        assert os.waitstatus_to_exitcode(status) == 0, f"{kind}: the run could not be gone on with after {done} kills"
        break
    compare(folder / "whole.h5", path, whole, pickle.loads(result.read_bytes()))
    if kind in WRITTEN:
        ending = WRITTEN[kind]
        compare_frames((folder / "whole.h5").with_suffix(ending), path.with_suffix(ending))
    return f"killed {done} times, {read_log(path).n_frames} frames and averages are those of the uninterrupted run"


def compare(whole: Path, parts: Path, averages: Any, others: Any) -> None:
    """Assert that two logs, and averages with them, are equal to the last bit."""
    one, other = read_log(whole), read_log(parts)
    for name in SERIES:
        np.testing.assert_array_equal(getattr(other, name), getattr(one, name), err_msg=name)
    np.testing.assert_array_equal(other.energy_members_minus_energy, one.energy_members_minus_energy)
    for name, values in one.observables.items():
        np.testing.assert_array_equal(other.observables[name], values, err_msg=name)
    assert averages.keys() == others.keys()
    for name, average in averages.items():
        assert average.n_frames == others[name].n_frames, name
        for field in ("mean", "std_sampling", "std_model", "member_means"):
            np.testing.assert_array_equal(getattr(others[name], field), getattr(average, field), err_msg=name)


def compare_frames(whole: Path, parts: Path) -> None:
    """Assert that two trajectories have the same frames, each once."""
    one, other = read(whole, ":"), read(parts, ":")
    assert [frame.info["step"] for frame in one] == [frame.info["step"] for frame in other]
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(second.positions, first.positions)
        np.testing.assert_array_equal(second.cell.array, first.cell.array)
        np.testing.assert_array_equal(second.get_momenta(), first.get_momenta())


def main() -> None:
    """Kill runs of every kind and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=2 * len(KINDS), help="In all.")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    for index, kind in enumerate(KINDS):
        share = options.kills // len(KINDS) + (index < options.kills % len(KINDS))
        with tempfile.TemporaryDirectory() as folder:
            print(f"{kind}: {killed(kind, Path(folder), kills=share, steps=options.steps, rng=rng)}", flush=True)


if __name__ == "__main__":
    main()
