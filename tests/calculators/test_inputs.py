"""What members and baselines return and look at: clear forms are taken, the rest named, changes respected."""

import itertools

import numpy as np
import pytest
from ase.build import bulk, fcc111
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from ase_uq import (
    BiasedCalculator,
    CommitteeUncertainty,
    InputError,
    UncertaintyLogger,
    UQCalculator,
    WeightedBaseline,
    copy_uncertainty,
)
from tests.made.structures import copper

VOIGT = np.arange(1.0, 7.0)


class Member(Calculator):
    """Springs to the origin, as stiff as `atoms.info` and tags say; `change` is what it makes of its results."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, k=1.0, change=None):
        super().__init__()
        self.k, self.change, self.n = k, change or {}, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.n += 1
        k = self.k * (1.0 + atoms.info.get("charge", 0) + sum(atoms.info.get("field", [])) + atoms.get_tags().sum())
        x = atoms.positions
        self.results = {"energy": 0.5 * k * (x**2).sum(), "forces": -k * x, "stress": k * VOIGT}
        for name, function in self.change.items():
            self.results[name] = function(self.results[name])


class OwnState(Member):
    """Looks at something of its own, and says so."""

    field = 0.0
    _field_seen = None

    def check_state(self, atoms, tol=1e-15):
        found = super().check_state(atoms, tol)
        return found if self.field == self._field_seen else [*found, "field"]

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self._field_seen = self.field
        self.results["energy"] += self.field


def uq(*changes):
    return UQCalculator(CommitteeUncertainty([Member(1.0 + 0.1 * i, change) for i, change in enumerate(changes)]))


def wrapped(kind, change):
    if kind == "member":
        return uq({}, change)
    if kind == "baseline":
        return WeightedBaseline(uq({}, {}), Member(0.9, change), sigma_baseline=50.0)
    return BiasedCalculator(uq({}, {}), Member(0.1, change))


def full(stress):
    xx, yy, zz, yz, xz, xy = stress
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


@pytest.mark.parametrize("kind", ["member", "baseline", "bias"])
@pytest.mark.parametrize(
    "change",
    [
        {"energy": lambda e: np.array([e])},
        {"energy": lambda e: [[e]]},
        {"forces": lambda f: f[None]},
        {"forces": lambda f: f.tolist()},
        {"stress": full},
        {"stress": lambda s: full(s)[None]},
        {"stress": lambda s: s[None]},
    ],
)
def test_clear_forms_are_taken(kind, change):
    found = []
    for each in (change, {}):
        atoms = copper()
        atoms.calc = wrapped(kind, each)
        found.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


@pytest.mark.parametrize(
    ("kind", "name"), [("member", "member 1 (Member)"), ("baseline", "`baseline`"), ("bias", "`bias`")]
)
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"energy": lambda e: e * np.nan}, "an energy of nan eV"),
        ({"energy": lambda e: [e, e]}, "energies of shape (2,)"),
        ({"energy": lambda e: "low"}, "energy that cannot be read"),
        ({"energy": lambda e: None}, "no energy"),
        ({"forces": lambda f: f * np.inf}, "forces with a component of"),
        ({"forces": lambda f: f[:-1]}, "forces of shape (3, 3)"),
        ({"forces": lambda f: f[None, None]}, "forces of shape (1, 1, 4, 3)"),
        ({"stress": lambda s: s * np.nan}, "a stress with a component of nan"),
        ({"stress": lambda s: s[:5]}, "a stress of shape (5,)"),
        ({"stress": lambda s: np.arange(9.0).reshape(3, 3)}, "a stress that differs by 4 eV/Å^3 from its transpose"),
        ({"stress": lambda s: 1j * s}, "stress that cannot be read as real numbers"),
    ],
)
def test_the_rest_is_named(kind, name, change, said):
    atoms = copper()
    atoms.calc = wrapped(kind, change)
    with pytest.raises(InputError) as caught:
        atoms.get_forces()
    assert str(caught.value).startswith(f"{name} returned {said}")


def no_stress(error):
    def change(_):
        raise error

    return {"stress": change}


@pytest.mark.parametrize("error", [PropertyNotImplementedError("three axes"), NotImplementedError("three axes")])
def test_no_stress_of_a_slab(error):
    atoms = fcc111("Cu", (1, 1, 2), vacuum=5.0)

    class NoStress(Member):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            if "stress" in properties:
                raise error
            super().calculate(atoms, properties, system_changes)
            del self.results["stress"]

    atoms.calc = UQCalculator(CommitteeUncertainty([NoStress(), Member(1.001)]))
    assert np.isfinite(atoms.get_forces()).all()
    assert "stress" not in atoms.calc.results


def test_a_member_that_fails_is_named():
    atoms = copper()
    atoms.calc = uq({}, no_stress(RuntimeError("no licence")))
    with pytest.raises(RuntimeError, match="no licence") as caught:
        atoms.get_forces()
    assert caught.value.__notes__ == ["This came from member 1 (Member)."]


@pytest.mark.parametrize("kind", ["member", "baseline", "bias"])
def test_what_is_looked_at_beside_positions(kind):
    """A change of it gives what a fresh calculator gives; without one nothing is computed again."""
    atoms = copper()
    atoms.info.update(charge=0, field=[0.0])
    atoms.calc = wrapped(kind, {})

    def fresh():
        twin = atoms.copy()
        twin.calc = wrapped(kind, {})
        return twin.get_potential_energy()

    seen = [atoms.get_potential_energy()]
    changes = [
        lambda: atoms.info.update(charge=1),
        lambda: atoms.info["field"].append(0.5),  # in place
        lambda: atoms.set_tags([1, 0, 0, 0]),
        lambda: atoms.info.pop("charge"),
    ]
    for change in changes:
        change()
        assert atoms.get_potential_energy() == fresh()
        seen.append(atoms.get_potential_energy())
    assert all(before != after for before, after in itertools.pairwise(seen))
    member = Member()
    atoms.calc = UQCalculator(CommitteeUncertainty([member, Member(1.2)]))
    for _ in range(3):
        atoms.get_forces()
        atoms.get_potential_energy()
    assert member.n == 1


def test_initial_charges_and_magnetic_moments():
    atoms = copper()
    member = Member()
    atoms.calc = UQCalculator(CommitteeUncertainty([member, Member(1.2)]))
    atoms.get_forces()
    atoms.set_initial_charges([1.0, 0.0, 0.0, 0.0])
    atoms.get_forces()
    atoms.set_initial_magnetic_moments([1.0, 0.0, 0.0, 0.0])
    atoms.get_forces()
    assert member.n == 3


@pytest.mark.parametrize("kind", ["member", "baseline"])
def test_a_check_of_its_own(kind):
    atoms, own = copper(), OwnState(1.0)
    if kind == "member":
        atoms.calc = UQCalculator(CommitteeUncertainty([own, Member(1.2)]))
    else:
        atoms.calc = WeightedBaseline(uq({}, {}), own, sigma_baseline=50.0)
    before = atoms.get_potential_energy()
    assert atoms.calc.check_state(atoms) == []
    own.field = 3.0
    assert atoms.calc.check_state(atoms) == ["field"]
    assert atoms.get_potential_energy() != before
    assert atoms.calc.check_state(atoms) == []


def test_what_observers_write_stops_no_log(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.calc = uq({}, {})
    atoms.get_forces()
    atoms.info["step"] = 0
    log = UncertaintyLogger(tmp_path / "run.h5", atoms, temperature_K=300.0, timestep_fs=1.0)
    log()
    log.close()
    atoms.get_forces()
    copy_uncertainty(atoms)
    assert atoms.calc.check_state(atoms) == []


class Altering(Member):
    """Changes what it is given, after it has computed."""

    def __init__(self, alter):
        super().__init__()
        self.alter = alter

    def calculate(self, atoms=None, *args, **kwargs):
        super().calculate(atoms, *args, **kwargs)
        self.alter(atoms)


ALTERATIONS = {
    "positions": lambda atoms: atoms.positions.__iadd__(0.1),
    "cell": lambda atoms: atoms.set_cell(1.1 * atoms.cell),
    "numbers": lambda atoms: atoms.numbers.__iadd__(1),
    "pbc": lambda atoms: atoms.set_pbc(False),
}


@pytest.mark.parametrize("what", ALTERATIONS)
@pytest.mark.parametrize("place", ["member 1", "`baseline`"])
def test_a_calculator_that_alters_the_structure_is_named(what, place):
    """Members after it, and its own results, would be of another structure."""
    altering = Altering(ALTERATIONS[what])
    if place == "member 1":
        calc = UQCalculator(CommitteeUncertainty([Member(), altering, Member(1.1)]))
    else:
        calc = WeightedBaseline(
            UQCalculator(CommitteeUncertainty([Member(), Member(1.1)])), altering, sigma_baseline=9.0
        )
    atoms = copper()
    positions = atoms.positions.copy()
    atoms.calc = calc
    with pytest.raises(InputError, match=f"{place}.* altered the {what}"):
        atoms.get_potential_energy()
    np.testing.assert_array_equal(atoms.positions, positions)
