"""The trajectory beside a log: the same frames, after kills and restarts too."""

import os
import shutil

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read, ulm

from ase_uq import InputError, UQCalculator, read_log
from ase_uq.dynamics import keeper
from ase_uq.dynamics import trajectory as module
from ase_uq.dynamics.driver import run_md
from ase_uq.dynamics.restart import read_restart, state_path
from ase_uq.dynamics.settings import MDSettings
from ase_uq.errors import RunError
from ase_uq.locks import Lock
from tests.faults.runs import at_step, committee, go
from tests.made import argon

KINDS = ("traj", "xyz", "extxyz")


class Stopped(Exception):
    pass


def trajectory(path, kind):
    return path.with_suffix(f".{kind}")


def run(path, kind, steps, **options):
    return go(path, steps, traj=trajectory(path, kind), **options)


def stopped_at(monkeypatch, step, work, *, before_the_state=False):
    """End a run after a step, with its state on the disk, or with frames on the disk that no state knows."""
    original = keeper.Keeper.__call__

    def call(self, at):
        if before_the_state and at == step:
            self._trajectory.flush()
            raise Stopped
        original(self, at)
        if at == step:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(keeper.Keeper, "__call__", call)
        if before_the_state:
            patch.setattr(keeper.Keeper, "keep", lambda self: None)
        with pytest.raises(Stopped):
            work()


def same_frames(one, other):
    first, second = read(one, ":"), read(other, ":")
    assert [frame.info["step"] for frame in first] == [frame.info["step"] for frame in second]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
        np.testing.assert_array_equal(a.cell.array, b.cell.array)
        np.testing.assert_array_equal(a.get_momenta(), b.get_momenta())
        np.testing.assert_array_equal(a.get_forces(), b.get_forces())
        assert a.get_potential_energy() == b.get_potential_energy()
        assert a.info == b.info


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interval", [1, 5])
def test_the_frames_are_those_of_the_log(tmp_path, kind, interval):
    run(tmp_path / "run.h5", kind, 20, interval=interval, store=("positions", "forces"), equilibration_steps=7)
    log, frames = read_log(tmp_path / "run.h5"), read(tmp_path / f"run.{kind}", ":")
    assert [frame.info["step"] for frame in frames] == log.step.tolist()
    digits = 1e-12 if kind == "traj" else 1e-7
    np.testing.assert_allclose([frame.info["time_fs"] for frame in frames], log.time_fs, atol=digits)
    np.testing.assert_allclose([frame.get_potential_energy() for frame in frames], log.energy, atol=digits)
    np.testing.assert_allclose([frame.get_kinetic_energy() for frame in frames], log.kinetic_energy, atol=1e-7)
    np.testing.assert_allclose([frame.info["energy_var"] for frame in frames], log.energy_var, rtol=1e-6)
    np.testing.assert_allclose([frame.positions for frame in frames], log.positions, atol=1e-6)
    np.testing.assert_allclose([frame.get_forces() for frame in frames], log.forces, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interval", [1, 3])
def test_no_frame_is_there_twice_and_none_is_lost(tmp_path, monkeypatch, kind, interval):
    options = {"interval": interval, "equilibration_steps": 5}
    run(tmp_path / "whole.h5", kind, 40, **options)
    for i, step in enumerate((-3, 0, 4, 12, 13, 30)):
        part = {"restart": i > 0, **options}
        stopped_at(monkeypatch, step, lambda part=part: run(tmp_path / "run.h5", kind, 40, **part))
        # What no state knows of is written over.
        again = {"restart": True, **options}
        stopped_at(
            monkeypatch,
            step + 6,
            lambda again=again: run(tmp_path / "run.h5", kind, 40, **again),
            before_the_state=True,
        )
    run(tmp_path / "run.h5", kind, 40, restart=True, **options)
    same_frames(tmp_path / f"whole.{kind}", tmp_path / f"run.{kind}")


def test_more_frames_than_the_header_of_ase_has_room_for(tmp_path):
    """Its table of frames grows by factors of 42, and moves."""
    run(tmp_path / "whole.h5", "traj", 120)
    run(tmp_path / "run.h5", "traj", 30)
    state = state_path(tmp_path / "run.h5")
    for name in ("run.h5", state.name):
        shutil.copy(tmp_path / name, tmp_path / f"kept.{name}")
    run(tmp_path / "run.h5", "traj", 90, restart=True)
    for name in ("run.h5", state.name):
        shutil.copy(tmp_path / f"kept.{name}", tmp_path / name)
    run(tmp_path / "run.h5", "traj", 120, restart=True)
    same_frames(tmp_path / "whole.traj", tmp_path / "run.traj")


@pytest.mark.parametrize("kind", KINDS)
def test_cells_that_move_are_written(tmp_path, kind):
    made = MDSettings(temperature_K=40.0, steps=6, timestep_fs=4.0, ensemble="npt")
    path = tmp_path / f"run.{kind}"
    run_md(argon.crystal(), UQCalculator(argon.PairMembers()), made, log=tmp_path / "run.h5", observables={}, traj=path)
    frames, log = read(path, ":"), read_log(tmp_path / "run.h5")
    np.testing.assert_allclose([frame.get_volume() for frame in frames], log.volume, rtol=1e-6)
    pressure = [-frame.get_stress(include_ideal_gas=True)[:3].mean() for frame in frames]
    np.testing.assert_allclose(np.array(pressure) * 160.21766208, log.observables["pressure_GPa"], atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused
# ---------------------------------------------------------------------------------------------------------------------


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="`traj` must end in one of .traj, .xyz, .extxyz, got run.pdb"):
        run(tmp_path / "run.h5", "pdb", 5)
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "run.xyz"
    path.write_text("mine")
    with pytest.raises(InputError, match="run.xyz` exists already"):
        run(tmp_path / "run.h5", "xyz", 5)
    assert path.read_text() == "mine"
    run(tmp_path / "run.h5", "xyz", 5, overwrite=True)
    assert len(read(path, ":")) == 6


def test_one_file_has_one_writer(tmp_path):
    with Lock(tmp_path / "run.xyz.lock", "another run"), pytest.raises(InputError, match="that writes .* is under way"):
        run(tmp_path / "run.h5", "xyz", 5)
    assert not (tmp_path / "run.xyz").exists()


def test_a_run_with_a_trajectory_goes_on_with_one(tmp_path):
    run(tmp_path / "run.h5", "xyz", 5)
    with pytest.raises(InputError, match=r"`traj` must be given where the run wrote run.xyz before, got none"):
        go(tmp_path / "run.h5", 9, restart=True)
    # Another name begins there.
    go(tmp_path / "run.h5", 9, restart=True, traj=tmp_path / "more.traj")
    assert [frame.info["step"] for frame in read(tmp_path / "more.traj", ":")] == [5, 6, 7, 8, 9]
    with pytest.raises(InputError, match="run.xyz` exists already"):
        go(tmp_path / "run.h5", 12, restart=True, traj=tmp_path / "run.xyz")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_trajectory_that_is_not_that_of_the_run_is_refused(tmp_path, kind, damage):
    run(tmp_path / "run.h5", kind, 5)
    damage(tmp_path / f"run.{kind}")
    with pytest.raises(InputError, match="`traj` must be the file that the run wrote, with at least"):
        run(tmp_path / "run.h5", kind, 9, restart=True)
    assert read_log(tmp_path / "run.h5").n_frames == 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_trajectory_deleted_under_the_run_is_noticed(tmp_path, kind):
    path, kept = tmp_path / f"run.{kind}", tmp_path / "kept"
    with pytest.raises(RunError, match=rf"the trajectory .*run.{kind} was deleted, moved or replaced .*restart=True"):
        run(tmp_path / "run.h5", kind, 400, on_status=at_step(1, lambda: path.rename(kept)))
    done = read_restart(state_path(tmp_path / "run.h5")).step
    kept.rename(path)
    run(tmp_path / "run.h5", kind, 410, restart=True)
    run(tmp_path / "whole.h5", kind, 410)
    assert done < 410
    same_frames(tmp_path / f"whole.{kind}", path)


@pytest.mark.parametrize("kind", KINDS)
def test_no_room_for_the_trajectory(tmp_path, monkeypatch, kind):
    def full(self, atoms):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module._FORMATS[f".{kind}"], "write", full)
        with pytest.raises(RunError, match=r"the trajectory .* could not be written \(No space left on device\)"):
            run(tmp_path / "run.h5", kind, 5)
    assert not os.path.lexists(tmp_path / f"run.{kind}.lock")


def test_an_unfinished_frame_is_not_kept(tmp_path, monkeypatch):
    """ASE's writer would end what an interrupt left of a frame when it is closed."""
    original, calls = ulm.Writer.sync, []

    def sync(self):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(ulm.Writer, "sync", sync)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run.h5", "traj", 20)
    assert [frame.info["step"] for frame in read(tmp_path / "run.traj", ":")] == [0, 1, 2, 3, 4]
    run(tmp_path / "run.h5", "traj", 20, restart=True)
    run(tmp_path / "whole.h5", "traj", 20)
    same_frames(tmp_path / "whole.traj", tmp_path / "run.traj")


def test_masses_of_the_run_are_in_the_file(tmp_path):
    atoms = molecule("H2O")
    atoms.set_masses([16.0, 2.0, 2.0])
    run(tmp_path / "run.h5", "traj", 3, atoms=atoms, calculator=committee())
    assert read(tmp_path / "run.traj").get_masses().tolist() == [16.0, 2.0, 2.0]
