"""The one table of what a log is made of, and logs written before there was one."""

import shutil
from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest

from ase_uq import UQCalculator, read_log, reweight_log
from ase_uq.log.columns import KINDS, PER_ATOM, SETTINGS, key_of, name_of
from ase_uq.log.estimator import estimator_attributes, estimator_of, taken_apart
from ase_uq.log.reader import RunLog
from ase_uq.observables import Histogram, MemberEnergies
from ase_uq.report.build import build_report
from ase_uq.uncertainty.force_variance import NAMES, force_variance, settings_of
from tests.made.logged_runs import Harmonic, distance, fresh, oscillator, record

EARLIER = Path(__file__).parents[1] / "earlier" / "observables.h5"


def test_every_column_is_a_field_of_a_run():
    assert set(KINDS) <= {field.name for field in fields(RunLog)}
    assert [kind.dtype for kind in KINDS.values() if kind.per_atom] == ["float32"] * len(PER_ATOM)
    assert not any(kind.per_atom and kind.averageable for kind in KINDS.values())


def test_averages_find_numbers_of_a_frame_by_their_own_name_and_observables_by_theirs():
    assert [key_of(name) for name in ("volume", "weight", "r", "step", "positions")] == [
        "volume", "weight", "observables/r", "observables/step", "observables/positions",
    ]  # fmt: skip
    assert [name_of(key) for key in ("volume", "observables/r")] == ["volume", "r"]


def test_what_is_averaged_together_could_be_continued():
    names = [setting.name for setting in SETTINGS]
    assert len(set(names)) == len(names)
    assert [setting.name for setting in SETTINGS if not setting.of_averages] == ["timestep_fs"]


@pytest.mark.parametrize("name", NAMES)
def test_the_estimator_of_the_variance_of_forces_is_logged_field_by_field(tmp_path, name):
    atoms, dyn = oscillator()
    atoms.calc = UQCalculator(Harmonic(atoms.calc.model.sites), forces_var=name if name == "off" else "exact")
    record(tmp_path / "run.h5", atoms, dyn, 2)
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["forces_var"] == ("off" if name == "off" else "exact")
    # What any other estimator would say of itself goes into attributes and comes back.
    settings = settings_of(force_variance(name, every=3))
    attributes = estimator_attributes(settings)
    assert attributes["forces_var"] == name
    assert estimator_of(attributes) == settings


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("Exact(every=1)", {"name": "exact", "every": 1}),
        ("Stochastic(every=3, seed=7)", {"name": "stochastic", "every": 3, "seed": 7}),
        ("Off()", {"name": "off"}),
        (
            "LowRank(tolerance=0.05, every=2, check_every=100)",
            {"name": "low_rank", "tolerance": 0.05, "every": 2, "check_every": 100},
        ),
        ("", {}),
    ],
)
def test_the_text_of_earlier_versions_is_taken_apart(text, settings):
    attributes = {"alpha": 1.5, "forces_var": text}
    assert estimator_of(taken_apart(attributes)) == settings
    assert taken_apart(attributes)["alpha"] == 1.5
    again = taken_apart(taken_apart(attributes))
    assert again == taken_apart(attributes)


def test_an_estimator_of_somebody_else_goes_by_its_class():
    class Half:
        def __init__(self, every=2):
            self.every = every

    assert settings_of(Half()) == {"name": "Half", "every": 2}


def test_a_log_of_an_earlier_version_reads_averages_and_reports_as_it_did():
    run = read_log(EARLIER)
    assert (run.n_frames, run.attributes["forces_var"], run.attributes["forces_var_every"]) == (41, "exact", 1)
    assert (run.axes["bins"].name, run.axes["bins"].unit, run.observables_of_members) == ("r", "Å", {"own"})
    found = reweight_log(EARLIER, ["r", "bins", "own", "energy", "heat_capacity"])
    # As that version printed them.
    assert found["r"].mean == pytest.approx(1.775707324, rel=1e-8)
    np.testing.assert_allclose(found["bins"].mean, [0.0, 0.292682927, 0.707317073], rtol=1e-8)
    assert found["own"].mean == pytest.approx(0.129456952, rel=1e-8)
    assert found["energy"].mean == pytest.approx(0.129456952, rel=1e-8)
    assert found["heat_capacity"].mean == pytest.approx(0.000919647, rel=1e-5)
    assert "estimator" not in build_report(run)


def test_a_log_of_an_earlier_version_is_continued(tmp_path):
    path = tmp_path / "run.h5"
    shutil.copy(EARLIER, path)
    atoms, dyn = oscillator(alpha=1.3)
    bins = Histogram(distance, np.linspace(1.0, 2.0, 4), axis_name="r", axis_unit="Å")
    observables = {"r": (distance, "Å"), "bins": bins, "own": MemberEnergies()}
    dyn.run(40)
    record(path, atoms, fresh(atoms), 10, observables=observables, append=True)
    run = read_log(path)
    np.testing.assert_array_equal(run.step, np.arange(51))
    np.testing.assert_array_equal(run.energy[:41], read_log(EARLIER).energy)
