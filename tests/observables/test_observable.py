"""The one type that the logger, the observer, averages from logs, the report and the command line take."""

from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from ase_uq import OnlineReweighter, read_log, reweight_log
from ase_uq.errors import InputError
from ase_uq.observables import (
    Axis,
    Histogram,
    MemberEnergies,
    Observable,
    density,
    distance,
    named_observables,
    parse_observables,
)
from tests.made.logged_runs import fresh, oscillator, record


def length(atoms):
    return distance(atoms, 0, 1)


@dataclass(frozen=True)
class Heights(Observable):
    """A kind of its own: a dataclass with what is known of its values, and `__call__`."""

    unit = "Å"
    axis = Axis(np.arange(2.0), "atom", "")

    def __call__(self, atoms):
        return atoms.positions[:, 2]


FORMS = {
    "plain": length,
    "pair": (length, "Å"),
    "known": Observable(length, "Å"),
    "renamed": (Heights(), "nm"),
    "kind": Heights(),
    "vector": Observable(lambda atoms: atoms.positions[0], "Å", axis=Axis(np.arange(3.0), "direction", "")),
    "bins": Histogram(length, [0.0, 1.5, 3.0], axis_name="r", axis_unit="Å"),
    "own": MemberEnergies(),
    "mine": Observable(lambda atoms: atoms.calc.prediction.energy_members, "eV", of_members=True),
}


def test_what_users_pass_becomes_one_type():
    made = named_observables(FORMS)
    assert all(isinstance(each, Observable) for each in made.values())
    assert [each.unit for each in made.values()] == ["", "Å", "Å", "nm", "Å", "Å", "", "eV", "eV"]
    assert [name for name, each in made.items() if each.axis is not None] == ["renamed", "kind", "vector", "bins"]
    assert [name for name, each in made.items() if each.is_histogram] == ["bins"]
    assert [name for name, each in made.items() if each.of_members] == ["own", "mine"]


def test_the_log_and_the_observer_take_all_forms_and_say_the_same_of_them(tmp_path):
    atoms, dyn = oscillator()
    online = OnlineReweighter(atoms, temperature_K=300.0, observables=FORMS)
    dyn.attach(online)
    record(tmp_path / "run.h5", atoms, dyn, 40, observables=FORMS)
    run, ours = read_log(tmp_path / "run.h5"), online.results()
    assert {name: run.units[name] for name in FORMS} == {name: o.unit for name, o in named_observables(FORMS).items()}
    assert {name: (axis.name, axis.unit) for name, axis in run.axes.items()} == {
        "renamed": ("atom", ""), "kind": ("atom", ""), "vector": ("direction", ""), "bins": ("r", "Å"),
    }  # fmt: skip
    assert run.observables_of_members == {"own", "mine"}
    theirs = reweight_log(tmp_path / "run.h5", list(FORMS))
    for name in FORMS:
        np.testing.assert_allclose(ours[name].member_means, theirs[name].member_means, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrong", ["distance", 3, (length, 3), ("Å", length), (length,), None])
def test_anything_else_is_named(wrong):
    atoms, _ = oscillator()
    with pytest.raises(
        InputError, match=r"`observables\['d'\]` must be a function of the atoms, \(function, unit\) or an"
    ):
        OnlineReweighter(atoms, temperature_K=300.0, observables={"d": wrong})
    with pytest.raises(InputError, match=r"`compute\['d'\]` must be a function of the atoms"):
        named_observables({"d": wrong}, "compute")


def test_an_observable_says_what_it_is_made_of():
    with pytest.raises(InputError, match="`function` must be a function of the atoms, got 'distance'"):
        Observable("distance")
    with pytest.raises(InputError, match="`unit` must be a text, got 3"):
        Observable(length, 3)
    with pytest.raises(InputError, match="`axis` must be an `Axis`"):
        Observable(length, axis=np.arange(3.0))
    with pytest.raises(InputError, match="`centres` needs an observable with an axis"):
        _ = Observable(length).centres


def test_scalars_keep_their_names_and_docstrings():
    assert (density.__name__, density.unit) == ("density", "g/cm^3")
    assert density.__doc__.startswith("Return the mass density")


def test_a_log_begun_without_a_unit_is_continued_with_one(tmp_path):
    """Earlier versions did not ask a g(r) for its unit."""
    atoms, dyn = oscillator()
    record(tmp_path / "run.h5", atoms, dyn, 3, observables={"h": (Heights(), "")})
    record(tmp_path / "run.h5", atoms, fresh(atoms), 3, observables={"h": Heights()}, append=True)
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["observables/h"].attrs["unit"] == "Å"
        assert len(file["observables/h"]) == 7
    for other in ((Heights(), "nm"), Observable(Heights(), "Å", axis=Axis(np.arange(2.0), "place", ""))):
        with pytest.raises(InputError, match="another shape, unit or axis"):
            record(tmp_path / "run.h5", atoms, fresh(atoms), 3, observables={"h": other}, append=True)


def test_texts_and_objects_are_of_one_type():
    atoms, _ = oscillator()
    (found,) = parse_observables(["distance:0,1"], atoms).values()
    assert (found(atoms), found.unit) == (length(atoms), "Å")
