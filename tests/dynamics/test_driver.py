"""Runs with everything attached; a restarted run is the run that was never interrupted."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from ase_uq import CommitteeUncertainty, InputError, UQCalculator, WeightedBaseline, read_log
from ase_uq.dynamics.driver import MDSettings, run_md
from ase_uq.dynamics.restart import read_restart
from ase_uq.observables import parse_observables


def calculator():
    return UQCalculator(
        CommitteeUncertainty([LennardJones(sigma=2.28 * s, epsilon=0.41, rc=6.0, smooth=True) for s in (1.0, 1.003)])
    )


def start():
    return bulk("Cu", cubic=True).repeat((2, 1, 1))


def settings(**changes):
    return MDSettings(**{"temperature_K": 300.0, "steps": 40, "timestep_fs": 1.0, **changes})


OBSERVABLES = parse_observables(["r=distance:0,1"], start())


def run(path, made=None, **options):
    return run_md(start(), made or calculator(), settings(), log=path, observables=OBSERVABLES, **options)


@pytest.mark.parametrize("ensemble", ["nvt", "nve"])
def test_a_run_is_logged_averaged_and_reported(tmp_path, ensemble):
    lines = []
    averages = run_md(
        start(),
        calculator(),
        settings(ensemble=ensemble, average_interval=1),
        log=tmp_path / "run.h5",
        observables=OBSERVABLES,
        on_status=lines.append,
    )
    recorded = read_log(tmp_path / "run.h5")
    assert recorded.step.tolist() == list(range(41))
    assert recorded.attributes["ensemble"] == ensemble
    assert recorded.attributes["temperature_K"] == 300.0
    assert averages["r"].n_frames == 41
    assert averages["r"].mean == pytest.approx(recorded.observables["r"].mean(), rel=1e-10)
    assert lines[-1].step == 40
    assert lines[-1].ns_per_day > 0
    assert lines[-1].energy_std == pytest.approx(np.sqrt(recorded.energy_var[-1]))


def test_a_restarted_run_is_the_uninterrupted_one(tmp_path):
    run(tmp_path / "whole.h5")
    run_md(start(), calculator(), settings(steps=17), log=tmp_path / "parts.h5", observables=OBSERVABLES)
    for steps in (18, 40):
        run_md(
            start(),
            calculator(),
            settings(steps=steps),
            log=tmp_path / "parts.h5",
            observables=OBSERVABLES,
            restart=True,
        )
    whole, parts = read_log(tmp_path / "whole.h5"), read_log(tmp_path / "parts.h5")
    assert parts.step.tolist() == whole.step.tolist()
    assert (parts.energy == whole.energy).all()
    assert (parts.observables["r"] == whole.observables["r"]).all()
    assert (parts.energy_members == whole.energy_members).all()


def test_an_interrupted_run_keeps_what_it_did(tmp_path):
    class Stop(Exception):
        pass

    made = calculator()
    predict = made.model.predict
    calls = []

    def predict_until(atoms, properties):
        calls.append(1)
        if len(calls) == 23:
            raise Stop
        return predict(atoms, properties)

    made.model.predict = predict_until
    with pytest.raises(Stop):
        run(tmp_path / "parts.h5", made)
    assert read_restart(tmp_path / "parts.h5.restart").step == 21
    assert read_log(tmp_path / "parts.h5").step[-1] == 21
    run(tmp_path / "parts.h5", restart=True)
    run(tmp_path / "whole.h5")
    assert (read_log(tmp_path / "parts.h5").energy == read_log(tmp_path / "whole.h5").energy).all()


def test_the_baseline_is_logged(tmp_path):
    blended = WeightedBaseline.aligned(calculator(), EMT(), [start()], sigma_baseline=0.05)
    run(tmp_path / "run.h5", blended)
    recorded = read_log(tmp_path / "run.h5")
    assert recorded.attributes["driver"] == "weighted_baseline"
    assert ((recorded.weight > 0) & (recorded.weight <= 1)).all()
    # The published members average to the blended energy.
    assert recorded.energy_members.mean(axis=1) == pytest.approx(recorded.energy, abs=1e-9)


def test_what_cannot_be_run_is_said(tmp_path):
    with pytest.raises(InputError, match="needs the state file"):
        run(tmp_path / "run.h5", restart=True)
    run(tmp_path / "run.h5")
    with pytest.raises(InputError, match="run.h5"):
        run(tmp_path / "run.h5")
    with pytest.raises(InputError, match="`steps` must exceed the 40 steps already done, got 40"):
        run(tmp_path / "run.h5", restart=True)
    other = bulk("Ag", cubic=True).repeat((2, 1, 1))
    with pytest.raises(InputError, match="the elements differ"):
        run_md(other, calculator(), settings(steps=50), log=tmp_path / "run.h5", observables=OBSERVABLES, restart=True)
    state = tmp_path / "run.h5.restart"
    state.write_bytes(state.read_bytes()[:50])
    with pytest.raises(InputError, match="could not be read"):
        run_md(
            start(), calculator(), settings(steps=50), log=tmp_path / "run.h5", observables=OBSERVABLES, restart=True
        )
    run(tmp_path / "run.h5", overwrite=True)
    assert read_log(tmp_path / "run.h5").n_frames == 41


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"temperature_K": -1.0}, "`temperature_K` must be positive"),
        ({"steps": 0}, "`steps` must be positive"),
        ({"timestep_fs": float("nan")}, "`timestep_fs` must be positive"),
        ({"ensemble": "muvt"}, "`ensemble` must be one of nvt, nve, npt"),
    ],
)
def test_bad_settings_are_named(change, rule):
    with pytest.raises(InputError, match=rule):
        settings(**change)
