"""An observable that fails costs its value and not the run; one that moves the atoms is refused."""

import logging

import numpy as np
import pytest
from ase.calculators.lj import LennardJones

from ase_uq import CommitteeUncertainty, InputError, OnlineReweighter, UQCalculator, read_log, reweight, reweight_log
from ase_uq.observables import Observable, named_observables
from ase_uq.observables.observing import Observing
from ase_uq.reweighting.axis import Axis
from tests.made.logged_runs import distance, oscillator, record
from tests.made.structures import copper


def observing(**functions):
    return Observing(named_observables(functions))


def moved(atoms):
    atoms.positions[0] += 1.0
    return 0.0


def wrapped(atoms):
    atoms.positions -= 50.0
    atoms.wrap()
    return 0.0


def grown(atoms):
    atoms.set_cell(1.1 * atoms.cell, scale_atoms=False)
    return 0.0


def used(atoms):
    other = atoms.copy()
    other.calc = atoms.calc
    other.rattle(0.1)
    return other.get_potential_energy()


CHANGES = {
    "positions": moved,
    "numbers": lambda atoms: atoms.set_atomic_numbers([29, 29, 29, 1]),
    "momenta": lambda atoms: atoms.set_momenta(np.ones((4, 3))),
    "cell": grown,
    "pbc": lambda atoms: atoms.set_pbc(False),
    "calc": lambda atoms: setattr(atoms, "calc", LennardJones()),
    "results of calc": used,
}


def committee():
    return UQCalculator(CommitteeUncertainty([LennardJones(sigma=s, epsilon=0.1) for s in (2.2, 2.3)]))


@pytest.mark.parametrize(("what", "function"), [*CHANGES.items(), ("positions", wrapped)])
@pytest.mark.parametrize("frame", [0, 2])
def test_an_observable_that_changes_the_atoms(what, function, frame):
    atoms = copper()
    atoms.calc = calculator = committee()
    atoms.get_forces()
    before = atoms.copy()
    watch = observing(good=len, bad=lambda atoms: function(atoms) if watch._n_frames == frame else 0.0)
    for _ in range(frame):
        watch.values(atoms)
    with pytest.raises(
        InputError, match=rf"`observables\['bad'\]` must leave the atoms as they are, it changed .*{what}"
    ):
        watch.values(atoms)
    assert atoms.calc is calculator
    np.testing.assert_array_equal(atoms.positions, before.positions)
    np.testing.assert_array_equal(atoms.numbers, before.numbers)
    np.testing.assert_array_equal(atoms.cell.array, before.cell.array)
    assert atoms.pbc.tolist() == before.pbc.tolist()
    assert set(atoms.arrays) == set(before.arrays)


def at(frames, what, otherwise=len):
    """A function that does something else at some calls."""
    n = [-1]

    def function(atoms):
        n[0] += 1
        if n[0] in frames:
            if isinstance(what, Exception):
                raise what
            return what
        return otherwise(atoms)

    return function


@pytest.mark.parametrize("what", [ValueError("no torsion"), TypeError("none"), None, np.nan, np.inf, "far"])
def test_a_frame_without_a_value(what, caplog):
    watch = observing(x=at({2, 3}, what), y=len)
    with caplog.at_level(logging.WARNING):
        found = [watch.values(copper(), f"step {k}") for k in range(5)]
    assert [bool(np.isfinite(each["x"])) for each in found] == [True, True, False, False, True]
    assert all(each["y"] == 4.0 for each in found)
    assert watch.missing == {"x": 2, "y": 0}
    assert caplog.text.count("observable 'x' has no value at step 2, the first so far") == 1
    assert "step 3" not in caplog.text


def test_a_vector_without_a_value_keeps_its_shape():
    axis = Axis(np.arange(3.0), "bin")
    vector = Observable(at({0, 2}, ValueError("empty"), lambda atoms: np.ones(3)), axis=axis)
    watch = observing(v=vector)
    assert [watch.values(copper())["v"].shape for _ in range(4)] == [(3,)] * 4


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda atoms: atoms.get_distanse(0, 1), "AttributeError"),
        (lambda: 1.0, "TypeError"),
        (lambda atoms: unknown(atoms), "NameError"),  # noqa: F821
        (lambda atoms: "far", "must return a number or an array of numbers, got 'far'"),
    ],
)
def test_a_mistake_is_refused_at_the_first_frame(function, said):
    with pytest.raises(InputError, match=rf"`observables\['x'\]`.*{said}"):
        observing(x=function).values(copper())


def test_another_shape_is_refused():
    watch = observing(x=at({3}, np.ones(2)))
    for _ in range(3):
        watch.values(copper())
    with pytest.raises(
        InputError, match=r"`observables\['x'\]` must keep its shape \(\) along the run, got \(2,\) at step 9"
    ):
        watch.values(copper(), "step 9")


# ---------------------------------------------------------------------------------------------------------------------
# In a run, and in its averages
# ---------------------------------------------------------------------------------------------------------------------

GAPS = {30, 31, 100}


def test_the_run_goes_on_and_its_averages_leave_the_frames_out(tmp_path):
    atoms, dyn = oscillator()
    observables = {"d": distance, "gapped": at(GAPS, ValueError("no value"), distance)}
    online = OnlineReweighter(
        atoms, temperature_K=300.0, observables={"d": distance, "gapped": at(GAPS, None, distance)}, dyn=dyn
    )
    dyn.attach(online)
    record(tmp_path / "run.h5", atoms, dyn, 200, observables=observables)
    run = read_log(tmp_path / "run.h5")
    assert np.flatnonzero(np.isnan(run.observables["gapped"])).tolist() == sorted(GAPS)
    assert np.isfinite(run.observables["d"]).all()

    kept = np.setdiff1d(np.arange(run.n_frames), sorted(GAPS))
    expected = reweight(
        run.observables["d"][kept],
        energy_members=run.energy_members[kept],
        energy_reference=run.energy[kept],
        temperature_K=300.0,
    )
    for result in (reweight_log(tmp_path / "run.h5"), online.results()):
        assert result["gapped"].n_frames == len(kept)
        assert result["d"].n_frames == run.n_frames
        assert result["gapped"].mean == pytest.approx(expected.mean, rel=1e-10)
        np.testing.assert_allclose(result["gapped"].member_means, expected.member_means, rtol=1e-9)
        said = [each for each in result["gapped"].warnings if "has no value in 3 of 201 frames" in each]
        assert len(said) == 1
        assert not any("has no value" in each for each in result["d"].warnings)


def test_a_gap_in_the_very_first_frame_online():
    atoms = copper()
    online = OnlineReweighter(atoms, temperature_K=300.0, observables={"x": len, "y": len})
    rng = np.random.default_rng(0)
    values, members = rng.normal(size=300), 0.01 * rng.normal(size=(300, 4))
    missing = {0, 70, 71, 299}
    for k, (value, energies) in enumerate(zip(values, members, strict=True)):
        online.update(0.0, energies, {"x": np.nan if k in missing else value, "y": value})
    kept = np.setdiff1d(np.arange(300), sorted(missing))
    expected = reweight(values[kept], energy_members=members[kept], energy_reference=np.zeros(296), temperature_K=300.0)
    found = online.results()
    assert found["x"].mean == pytest.approx(expected.mean)
    assert found["x"].std_sampling == pytest.approx(expected.std_sampling, rel=0.2)
    assert (found["x"].n_frames, found["y"].n_frames) == (296, 300)


def test_an_observable_without_any_value(tmp_path):
    atoms, dyn = oscillator()
    record(tmp_path / "run.h5", atoms, dyn, 60, observables={"d": distance, "never": lambda atoms: np.nan})
    with pytest.raises(
        InputError, match="`never` must be finite in at least 20 frames of the log, it has a value in 0 of 61"
    ):
        reweight_log(tmp_path / "run.h5", ["never"])
    assert np.isfinite(reweight_log(tmp_path / "run.h5", ["d"])["d"].mean)


def test_what_is_masked_has_no_value():
    masked = np.ma.masked_greater([1.0, 5.0], 2.0)
    found_by = Observing(named_observables({"o": lambda atoms: masked, "p": lambda atoms: np.ma.masked}))
    found = found_by.values(copper())
    np.testing.assert_array_equal(found["o"], [1.0, np.nan])
    assert np.isnan(found["p"])
    assert found_by.missing == {"o": 1, "p": 1}


def test_a_date_is_no_number():
    found_by = Observing(named_observables({"o": lambda atoms: np.datetime64("2020")}))
    with pytest.raises(InputError, match="must return a number"):
        found_by.values(copper())
