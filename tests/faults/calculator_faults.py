"""Faults of calculators: threads, copies, what members return and look at, observables that fail."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from ase_uq import CommitteeUncertainty, InputError, UQCalculator, WeightedBaseline, read_log, reweight_log
from ase_uq.models.members import MemberUncertainty
from ase_uq.observables import Observable
from tests.faults.fault import Fault
from tests.made.logged_runs import distance, oscillator, record
from tests.made.potentials import ensemble, shallow
from tests.made.structures import copper, rattled

TINY = {"channels": 4, "radial_width": 8}
N_EVALUATIONS = 480


class Member(Calculator):
    """Springs to the origin, stiffer with `atoms.info["charge"]`; `change` is what it makes of its results."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012

    def __init__(self, k: float = 1.0, **change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.k, self.change = k, change

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        k, x = self.k * (1.0 + atoms.info.get("charge", 0)), atoms.positions
        self.results = {"energy": 0.5 * k * (x**2).sum(), "forces": -k * x, "stress": k * np.arange(1.0, 7.0)}
        for name, function in self.change.items():
            self.results[name] = function(self.results[name])


def evaluated(calculator: Calculator, seed: int = 1) -> dict[str, Any]:
    atoms = rattled(copper(), seed)
    atoms.calc = calculator
    atoms.get_forces()
    return {name: np.array(value) for name, value in calculator.results.items()}


def one_line(error: Exception) -> str:
    assert "\n" not in str(error)
    return str(error)


def same(found: dict[str, Any], expected: dict[str, Any]) -> str:
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)
    return "the same numbers"


def two_threads(*, one_calculator: bool) -> Callable[[Path], str]:
    def inject(_: Path) -> str:
        model, frames = MemberUncertainty(ensemble(2, **TINY)), [rattled(copper(), seed) for seed in range(12)]
        right = [model.predict(atoms) for atoms in frames]
        shared, wrong, seen = UQCalculator(model), [], []

        def work(which: int) -> None:
            own = shared if one_calculator else UQCalculator(model)
            for n in range(N_EVALUATIONS // 2):
                k = (2 * n + which) % len(frames)
                atoms = frames[k].copy()
                atoms.calc = own
                whole = np.allclose(atoms.get_forces(), right[k].forces, rtol=1e-9, atol=1e-12)
                seen.append(k)
                if not whole or not np.isclose(own.results["energy_var"], right[k].energy_var, rtol=1e-9):
                    wrong.append(k)

        threads = [threading.Thread(target=work, args=(which,)) for which in (0, 1)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert not wrong
        assert len(seen) == N_EVALUATIONS
        return f"right numbers in {len(seen)} evaluations"

    return inject


def copied(how: Callable[[Any], Any], make: Callable[[], Calculator]) -> Callable[[Path], str]:
    def inject(_: Path) -> str:
        calculator = make()
        evaluated(calculator)
        return same(evaluated(how(calculator), 2), evaluated(calculator, 2))

    return inject


def of_model() -> UQCalculator:
    return UQCalculator(MemberUncertainty(shallow(3, **TINY)))


def of_committee() -> UQCalculator:
    return UQCalculator(CommitteeUncertainty([EMT(), EMT()]))


def on_baseline() -> WeightedBaseline:
    return WeightedBaseline(of_committee(), EMT(), sigma_baseline=1.0)


def from_member(**change: Callable[[Any], Any]) -> Callable[[Path], str]:
    return returned(lambda bad: UQCalculator(CommitteeUncertainty([Member(), bad])), **change)


def from_baseline(**change: Callable[[Any], Any]) -> Callable[[Path], str]:
    def make(bad: Member) -> WeightedBaseline:
        uq = UQCalculator(CommitteeUncertainty([Member(), Member(1.1)]))
        return WeightedBaseline(uq, bad, sigma_baseline=50.0)

    return returned(make, **change)


def returned(make: Callable[[Member], Calculator], **change: Callable[[Any], Any]) -> Callable[[Path], str]:
    def inject(_: Path) -> str:
        expected = evaluated(make(Member(1.1)))
        try:
            found = evaluated(make(Member(1.1, **change)))
        except InputError as e:
            return one_line(e)
        return same(found, expected)

    return inject


def charge_that_changes(_: Path) -> str:
    atoms = copper()
    atoms.calc = UQCalculator(CommitteeUncertainty([Member(), Member(1.1)]))
    before = atoms.get_potential_energy()
    atoms.info["charge"] = 1
    np.testing.assert_allclose(atoms.get_potential_energy(), 2.0 * before)
    return "computed again"


def observed(function: Callable[[Atoms], Any], expected: Callable[[np.ndarray], bool]) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        atoms, dyn = oscillator()
        path = folder / "run.h5"
        try:
            record(path, atoms, dyn, 60, observables={"d": distance, "x": function})
        except InputError as e:
            assert np.isfinite(read_log(path).observables["d"]).all()
            return str(e)
        run = read_log(path)
        assert run.n_frames == 61
        assert np.isfinite(run.observables["d"]).all()
        assert expected(np.isfinite(run.observables["x"]))
        said = [each for each in reweight_log(path)["x"].warnings if "'x'" in each]
        return f"the run goes on; {said[0]}"

    return inject


def sometimes(what: Any) -> Callable[[Atoms], Any]:
    calls = iter(range(10**6))

    def function(atoms: Atoms) -> Any:
        if next(calls) % 20 != 10:
            return distance(atoms)
        if isinstance(what, Exception):
            raise what
        return what(atoms) if callable(what) else what

    return function


def moving(atoms: Atoms) -> float:
    atoms.positions += 1.0
    return 0.0


def using(atoms: Atoms) -> float:
    other = rattled(atoms)
    other.calc = atoms.calc
    return float(other.get_potential_energy())


def around() -> Observable:
    calls = iter(range(10**6))
    return Observable(lambda atoms: (355.0 + 20.0 * np.sin(0.37 * next(calls))) % 360.0, "°", period=360.0)


def on_a_circle(folder: Path) -> str:
    atoms, dyn = oscillator()
    record(folder / "run.h5", atoms, dyn, 200, observables={"phi": around()})
    mean = reweight_log(folder / "run.h5")["phi"].mean
    assert abs(mean - 355.0) < 1.0
    return "the average on the circle"


def three_missing(known: np.ndarray) -> bool:
    return int((~known).sum()) == 3


SAME, PICKLED = "the same numbers", lambda calculator: pickle.loads(pickle.dumps(calculator))
LEFT_OUT = "the run goes on; .*has no value in 3 of 61 frames"
REFUSED = r"`observables\['x'\]` must leave the atoms as they are, it changed "
MEMBER, BASELINE = r"^member 1 \(Member\) returned ", "^`baseline` returned "

FAULTS = [
    Fault(name, "calculator", inject, expected)
    for name, inject, expected in (
        ("two threads on one model", two_threads(one_calculator=False), "right numbers in 480"),
        ("two threads on one calculator", two_threads(one_calculator=True), "right numbers in 480"),
        ("deepcopy of a calculator of a model", copied(copy.deepcopy, of_model), SAME),
        ("pickle of a calculator of a model", copied(PICKLED, of_model), SAME),
        ("pickle of a committee whose members hold functions", copied(PICKLED, of_committee), SAME),
        ("deepcopy of a weighted baseline", copied(copy.deepcopy, on_baseline), SAME),
        ("pickle of a weighted baseline", copied(PICKLED, on_baseline), SAME),
        ("energy (1,) of a member", from_member(energy=lambda e: np.array([e])), SAME),
        ("forces (1, N, 3) of a member", from_member(forces=lambda f: f[None]), SAME),
        ("forces (N - 1, 3) of a member", from_member(forces=lambda f: f[1:]), MEMBER + "forces of shape"),
        ("nan stress of a member", from_member(stress=lambda s: s * np.nan), MEMBER + "a stress .* nan"),
        ("stress (9,) of a member", from_member(stress=lambda s: np.ones(9)), MEMBER + "a stress of shape"),
        ("nan energy of a baseline", from_baseline(energy=lambda e: e * np.nan), BASELINE + "an energy of nan"),
        ("infinite forces of a baseline", from_baseline(forces=lambda f: f + np.inf), BASELINE + "forces"),
        ("stress (5,) of a baseline", from_baseline(stress=lambda s: s[1:]), BASELINE + "a stress of shape"),
        ("a charge in `info` that members read changes", charge_that_changes, "computed again"),
        ("an observable moves the atoms", observed(sometimes(moving), np.all), REFUSED + "positions"),
        ("an observable uses the calculator of the run", observed(sometimes(using), np.all), REFUSED + "results"),
        ("an observable raises", observed(sometimes(ValueError("no bond")), three_missing), LEFT_OUT),
        ("an observable returns nothing", observed(sometimes(None), three_missing), LEFT_OUT),
        ("an observable returns nan", observed(sometimes(np.nan), three_missing), LEFT_OUT),
        ("an observable changes its shape", observed(sometimes(np.ones(2)), np.all), "must keep its shape"),
        ("a torsion about 0", on_a_circle, "the average on the circle"),
    )
]
