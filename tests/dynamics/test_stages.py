"""Equilibration and temperature ramps: what the log begins with, what has no averages, and how runs go on inside."""

import json
import logging
import os
import pickle
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from typer.testing import CliRunner

from ase_uq import InputError, UncertaintyLogger, read_log, reweight, reweight_log
from ase_uq.averages import free_energy_of_run
from ase_uq.averages.plain import plain_average
from ase_uq.averages.run_checks import run_gates, target_temperature
from ase_uq.cli import app
from ase_uq.dynamics import keeper
from ase_uq.dynamics.driver import run_md
from ase_uq.dynamics.restart import read_restart, state_path
from ase_uq.dynamics.settings import MDSettings
from ase_uq.dynamics.stages import temperature_at
from ase_uq.report import write_report
from tests.faults.runs import committee, go, same, springs

HEATED = {"equilibration_steps": 20, "temperature_start_K": 100.0}


class Stopped(Exception):
    pass


def stop_at(monkeypatch, step):
    """End the run after a whole step, with its state written."""
    original = keeper.Keeper.__call__

    def call(self, at):
        original(self, at)
        if at == step:
            raise Stopped

    monkeypatch.setattr(keeper.Keeper, "__call__", call)


def stopped(monkeypatch, step, *arguments, **options):
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stopped):
            go(*arguments, **options)


def settings(**changes):
    return MDSettings(**{"temperature_K": 300.0, "steps": 100, **changes})


# ---------------------------------------------------------------------------------------------------------------------
# The stages
# ---------------------------------------------------------------------------------------------------------------------


def test_temperatures_are_linear_in_each_stage():
    made = settings(**HEATED, temperature_end_K=500.0)
    assert [temperature_at(step, made) for step in (-20, -5, 0, 50, 100)] == pytest.approx([100, 250, 300, 400, 500])
    assert {temperature_at(step, settings(equilibration_steps=10)) for step in (-10, -1, 0, 100)} == {300.0}
    assert settings(temperature_end_K=300.0).temperature_end_K is None


def test_the_log_begins_where_the_equilibration_ends(tmp_path):
    go(tmp_path / "long.h5", 60)
    averages = go(tmp_path / "run.h5", 40, equilibration_steps=20)
    run, long = read_log(tmp_path / "run.h5"), read_log(tmp_path / "long.h5")
    assert run.step.tolist() == list(range(41))
    assert run.time_fs[0] == 0.0
    # The same trajectory, told from another step on.
    np.testing.assert_array_equal(run.energy, long.energy[20:])
    assert averages["d"].n_frames == 5
    assert averages["d"].mean == pytest.approx(long.observables["d"][20::10].mean(), rel=1e-12)
    assert json.loads(run.attributes["definition"])["schedule"]["equilibration_steps"] == 20


@pytest.mark.parametrize("ensemble", ["nvt", "nve"])
@pytest.mark.parametrize("interval", [1, 7])
def test_a_run_stopped_in_any_stage_is_the_whole_one(tmp_path, monkeypatch, ensemble, interval):
    heated = {"equilibration_steps": 20, "ensemble": ensemble, "interval": interval}
    if ensemble == "nvt":
        heated["temperature_start_K"] = 50.0
    whole = go(tmp_path / "whole.h5", 30, **heated)
    for i, step in enumerate((-20, -13, -1, 0, 5)):
        stopped(monkeypatch, step, tmp_path / "parts.h5", 30, restart=i > 0, **heated)
        assert (tmp_path / "parts.h5").exists() == (step > 0)
        assert read_restart(state_path(tmp_path / "parts.h5")).step == step
    parts = go(tmp_path / "parts.h5", 30, restart=True, **heated)
    same(tmp_path / "whole.h5", tmp_path / "parts.h5")
    assert parts["d"].mean == whole["d"].mean


def test_a_ramp_stopped_anywhere_is_the_whole_one(tmp_path, monkeypatch):
    ramp = {**HEATED, "temperature_end_K": 900.0, "interval": 4}
    assert go(tmp_path / "whole.h5", 30, **ramp) == {}
    for i, step in enumerate((-3, 6, 8)):
        stopped(monkeypatch, step, tmp_path / "parts.h5", 30, restart=i > 0, **ramp)
    go(tmp_path / "parts.h5", 30, restart=True, **ramp)
    same(tmp_path / "whole.h5", tmp_path / "parts.h5")


def test_a_thermostat_follows_its_ramp(tmp_path):
    """From 100 to 900 K in 40 relaxation times: the mean over each quarter is that of the target, but for a lag."""
    rng = np.random.default_rng(0)
    atoms = Atoms("H400", positions=0.09 * rng.normal(size=(400, 3)))
    made = MDSettings(
        temperature_K=100.0, temperature_end_K=900.0, steps=400, timestep_fs=1.0, friction_per_ps=100.0, seed=1
    )
    run_md(atoms, springs(1.0, 1.1), made, log=tmp_path / "run.h5", observables={})
    run = read_log(tmp_path / "run.h5")
    quarters = [part.mean() for part in np.array_split(run.temperature_K, 4)]
    assert quarters == pytest.approx([200, 400, 600, 800], abs=40)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"equilibration_steps": 30}, r"schedule.equilibration_steps \(20 there, 30 here\)"),
        ({"temperature_start_K": 90.0}, r"schedule.temperature_start_K \(100.0 there, 90.0 here\)"),
        ({"temperature_end_K": 400.0}, r"schedule.temperature_end_K \(500.0 there, 400.0 here\)"),
        ({"temperature_end_K": None}, r"schedule.temperature_end_K \(500.0 there, None here\)"),
        ({"steps": 50}, r"schedule.steps \(30 there, 50 here\)"),
    ],
)
@pytest.mark.parametrize("step", [-8, 8])
def test_other_stages_are_refused_by_name(tmp_path, monkeypatch, changes, name, step):
    before = {**HEATED, "temperature_end_K": 500.0}
    stopped(monkeypatch, step, tmp_path / "run.h5", 30, **before)
    now = {"steps": 30, **before, **changes}
    with pytest.raises(InputError, match=name):
        go(tmp_path / "run.h5", now.pop("steps"), restart=True, **now)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"temperature_start_K": 100.0}, "`temperature_start_K` needs `equilibration_steps`, got 100 and none"),
        ({"temperature_end_K": 400.0, "ensemble": "nve"}, "`temperature_end_K` needs a thermostat, got 400"),
        ({**HEATED, "ensemble": "nve"}, "`temperature_start_K` needs a thermostat"),
        ({"equilibration_steps": -1}, "`equilibration_steps` must not be negative"),
        ({"temperature_end_K": 0.0}, "`temperature_end_K` must be positive"),
    ],
)
def test_stages_that_make_no_sense_are_named(changes, rule):
    with pytest.raises(InputError, match=rule):
        settings(**changes)


# ---------------------------------------------------------------------------------------------------------------------
# A run without a log
# ---------------------------------------------------------------------------------------------------------------------


def test_an_equilibration_is_not_begun_anew_by_accident(tmp_path, monkeypatch):
    stopped(monkeypatch, -8, tmp_path / "run.h5", 30, **HEATED)
    with pytest.raises(InputError, match="that of a run in its equilibration, .*8 steps before its first frame"):
        go(tmp_path / "run.h5", 30, **HEATED)
    go(tmp_path / "run.h5", 30, overwrite=True, **HEATED)
    go(tmp_path / "whole.h5", 30, **HEATED)
    same(tmp_path / "whole.h5", tmp_path / "run.h5")


def test_a_log_is_replaced_when_the_equilibration_is_over(tmp_path, monkeypatch):
    go(tmp_path / "run.h5", 50, seed=9)
    old = (tmp_path / "run.h5").read_bytes()
    for step in (-8, 0):
        stopped(monkeypatch, step, tmp_path / "run.h5", 30, overwrite=step < 0, restart=step == 0, **HEATED)
        assert step == 0 or (tmp_path / "run.h5").read_bytes() == old
    go(tmp_path / "run.h5", 30, restart=True, **HEATED)
    go(tmp_path / "whole.h5", 30, **HEATED)
    same(tmp_path / "whole.h5", tmp_path / "run.h5")


def test_a_log_that_is_not_the_one_to_be_replaced_stays(tmp_path, monkeypatch):
    stopped(monkeypatch, -8, tmp_path / "run.h5", 30, **HEATED)
    go(tmp_path / "other.h5", 20)
    (tmp_path / "other.h5").rename(tmp_path / "run.h5")
    with pytest.raises(InputError, match="`restart` needs the log and the state file of one run"):
        go(tmp_path / "run.h5", 30, restart=True, **HEATED)
    assert read_log(tmp_path / "run.h5").n_frames == 21


def test_an_interrupted_equilibration_says_how_to_go_on(tmp_path):
    def stop(status):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"in the equilibration, 20 steps before the first frame.*restart=True"):
        go(tmp_path / "run.h5", 30, on_status=stop, **HEATED)


@pytest.mark.parametrize("begin", [0, -20])
def test_a_state_far_behind_its_log_is_enough(tmp_path, monkeypatch, begin):
    """The log is written every hundred frames, however seldom states are."""
    monkeypatch.setattr(keeper, "EVERY_SECONDS", 1e9)
    child = os.fork()
    if child == 0:
        try:
            original = keeper.Keeper.__call__

            def call(self, step):
                original(self, step)
                if step == 150:
                    os._exit(0)

            keeper.Keeper.__call__ = call
            go(tmp_path / "run.h5", 400, equilibration_steps=-begin)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert read_restart(state_path(tmp_path / "run.h5")).step == begin
    assert read_log(tmp_path / "run.h5").step[-1] >= 100
    go(tmp_path / "run.h5", 200, restart=True, equilibration_steps=-begin)
    go(tmp_path / "whole.h5", 200, equilibration_steps=-begin)
    same(tmp_path / "whole.h5", tmp_path / "run.h5")


# ---------------------------------------------------------------------------------------------------------------------
# No averages of a ramp
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ramped(tmp_path_factory):
    path = tmp_path_factory.mktemp("ramp") / "run.h5"
    go(path, 60, temperature_end_K=900.0)
    return path


REFUSED = "at one temperature for averages, its target went from 300 K to 900 K"


def test_a_ramp_has_no_averages(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert go(tmp_path / "run.h5", 60, temperature_end_K=900.0) == {}
    assert "the temperature changes along the run, which has no averages then" in caplog.text
    attributes = read_log(tmp_path / "run.h5").attributes
    assert (attributes["temperature_K"], attributes["temperature_end_K"]) == (300.0, 900.0)


@pytest.mark.parametrize(
    "average",
    [
        lambda path: reweight_log(path, ["d"]),
        lambda path: reweight_log(read_log(path), ["energy"]),
        lambda path: reweight_log(path, ["heat_capacity"]),
        lambda path: free_energy_of_run(path, "d"),
        lambda path: plain_average(read_log(path), "d"),
        lambda path: reweight_log([path, path.with_name("steady.h5")], ["d"]),
        lambda path: reweight_log([path.with_name("steady.h5"), path], ["d"]),
    ],
)
def test_averages_of_a_ramp_are_refused(ramped, average):
    if not ramped.with_name("steady.h5").exists():
        go(ramped.with_name("steady.h5"), 60)
    with pytest.raises(InputError, match=REFUSED):
        average(ramped)


def test_members_of_a_ramp_remember_it(ramped):
    run = read_log(ramped)
    members = pickle.loads(pickle.dumps(run.energy_members[::2]))
    known = {"energy_reference": run.energy[::2], "temperature_K": 300.0}
    with pytest.raises(InputError, match="`energy_members` must be of a run at one temperature"):
        reweight(run.observables["d"][::2], energy_members=members, **known)
    reweight(run.observables["d"][::2], energy_members=np.asarray(members), **known)


def test_checks_report_and_shell_say_it(ramped, tmp_path):
    run = read_log(ramped)
    failed = {gate.name: gate.sentence for gate in run_gates(run) if gate.failed}
    assert "went from 300 K to 900 K" in failed["temperature that changes"]
    # There is no target to compare with.
    assert target_temperature(run) is None
    assert not {name for name in failed if "kinetic energy" in name or "mean temperature" in name}
    assert write_report(ramped, tmp_path / "report.html") == {}
    page = (tmp_path / "report.html").read_text()
    assert "300 K to 900 K" in page
    assert "samples no ensemble" in page
    called = CliRunner().invoke(app, ["reweight", str(ramped), "--observable", "d"])
    assert "went from 300 K to 900 K" in str(called.exception)


def test_loggers_of_scripts_can_say_it_too(tmp_path):
    atoms = bulk("Ar", cubic=True)
    atoms.calc = committee()
    with pytest.raises(InputError, match="`temperature_K` must be a positive number of kelvin, got -1.0"):
        UncertaintyLogger(tmp_path / "run.h5", atoms, temperature_K=(300.0, -1.0), timestep_fs=1.0)
    with UncertaintyLogger(tmp_path / "run.h5", atoms, temperature_K=(300.0, 500.0), timestep_fs=1.0) as log:
        atoms.get_forces()
        log()
    assert read_log(tmp_path / "run.h5").attributes["temperature_end_K"] == 500.0


def test_a_bias_has_no_weights_in_a_ramp(ramped):
    run = read_log(ramped)
    with pytest.raises(InputError, match=REFUSED):
        _ = replace(run, bias_energy=run.energy).log_weights
