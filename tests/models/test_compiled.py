"""Compiled evaluation equals the eager one, and falls back to it."""

import logging
import shutil

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones

from ase_uq import InputError, ThresholdSwitch, UQCalculator, WeightedBaseline
from ase_uq.models.compiled import CompiledPotential, _blend, _function, _rule, _weights
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import DeepEnsemble, ShallowEnsemble, evaluate
from ase_uq.potentials.graph import build_graph
from ase_uq.uncertainty.blend import Blend, Target
from ase_uq.uncertainty.force_variance import Off, Stochastic
from tests.made.potentials import potential
from tests.made.structures import STRUCTURES, copper, rattled, water

compiles = pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
TINY = {"channels": 4, "l_max": 1, "radial_width": 8, "n_radial": 4}


def test_the_blend_in_tensors_is_the_blend():
    rng = np.random.default_rng(0)
    raw, alpha = rng.normal(size=6), 1.7
    calibrated = raw.mean() + alpha * (raw - raw.mean())
    expected = Blend.of(calibrated, energy_baseline=-2.0, sigma_baseline=0.4)
    scalars = (torch.tensor(value, dtype=torch.float64) for value in (alpha, -2.0, 0.4**-2))
    found = _blend(torch.from_numpy(raw), *scalars).numpy()

    # d U / d (raw member), by differences of the formula of the blend.
    def energy(values):
        members = values.mean() + alpha * (values - values.mean())
        blend = Blend.of(members, energy_baseline=-2.0, sigma_baseline=0.4)
        return -2.0 + blend.weight * (members.mean() + 2.0)

    numerical = [(energy(raw + 1e-6 * e) - energy(raw - 1e-6 * e)) / 2e-6 for e in np.eye(6)]
    np.testing.assert_allclose(found, numerical, rtol=1e-6)
    assert found.sum() == pytest.approx(expected.weight)
    zero = torch.zeros((), dtype=torch.float64)
    np.testing.assert_allclose(_blend(torch.from_numpy(raw), torch.tensor(alpha), zero, zero), 1 / 6)


@pytest.mark.parametrize(
    "target",
    [
        Target(),
        Target(energy_baseline=-2.0, sigma_baseline=0.4, shift=np.array([0.3, -0.2, 0.1, 0.0, -0.1, -0.1])),
        Target(energy_baseline=-2.0, threshold=1e3),
        Target(energy_baseline=-2.0, threshold=1e-3),
    ],
)
def test_every_target_in_tensors_is_that_target(target):
    raw, alpha = np.random.default_rng(0).normal(size=6), 1.7
    expected = target.blend(raw.mean() + alpha * (raw - raw.mean())).coefficients
    expected = alpha * expected + (1.0 - alpha) * expected.mean()
    scalars, shift = _rule(target, alpha, 6)
    np.testing.assert_allclose(_blend(torch.from_numpy(raw), *scalars, shift), expected, atol=1e-14)


class Traced(CompiledPotential):
    """What is compiled, as it is before that, with a count of its calls."""

    calls = 0

    def _package(self, n_directions):
        self.calls += 1
        return _function(self.potential, list(_weights(self.potential)))


BASELINE = {"sigma": 1.2, "epsilon": 0.05, "rc": 6.0, "smooth": True}
WRAPPERS = {
    "switch, model": lambda uq, baseline: ThresholdSwitch(uq, baseline, threshold=1e3),
    "switch, baseline": lambda uq, baseline: ThresholdSwitch(uq, baseline, threshold=1e-6),
    "switch, members aligned": lambda uq, baseline: ThresholdSwitch.aligned(uq, baseline, coppers(), threshold=1e3),
    "baseline": lambda uq, baseline: WeightedBaseline(uq, baseline, sigma_baseline=3.0),
    "baseline, members aligned": lambda uq, baseline: WeightedBaseline.aligned(
        uq, baseline, coppers(), sigma_baseline=0.3
    ),
}


def coppers():
    return [rattled(copper(), seed) for seed in range(6)]


@pytest.mark.parametrize("name", WRAPPERS)
def test_whatever_drives_is_taken_by_machine_code(name):
    ensemble = ShallowEnsemble(potential(**TINY), 3, seed=1).requires_grad_(False)
    results, code = [], Traced([ensemble])
    for compiled in (None, code):
        model = MemberUncertainty(ensemble, alpha=1.7)
        model._evaluator.compiled = compiled
        wrapped = WRAPPERS[name](UQCalculator(model, forces_var="off"), LennardJones(**BASELINE))
        code.calls = 0
        atoms = rattled(copper(), 9)
        atoms.calc = wrapped
        atoms.get_stress()
        results.append(atoms.calc.results)
    assert code.calls == 1
    for key in ("energy", "weight", "energy_members", "forces", "stress", "energy_var"):
        np.testing.assert_allclose(results[1][key], results[0][key], rtol=1e-9, atol=1e-11)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """An ensemble in float64 whose packages are built once for this file."""
    ensemble = ShallowEnsemble(potential(**TINY), 3, seed=1).requires_grad_(False)
    return CompiledPotential([ensemble], folder=tmp_path_factory.mktemp("packages"))


def models(compiled, alpha=1.7):
    eager, fast = (MemberUncertainty(compiled.potential, alpha=alpha) for _ in range(2))
    fast._evaluator.compiled = compiled
    return eager, fast


@compiles
@pytest.mark.parametrize("name", [name for name in STRUCTURES if name != "primitive"])
def test_a_compiled_model_gives_the_same_on_systems_of_any_size(compiled, name, caplog):
    eager, fast = models(compiled)
    for atoms in (STRUCTURES[name](), rattled(STRUCTURES[name]().repeat((2, 1, 1) if name != "water" else 1), 4)):
        slow, quick = (model.predict_combined(atoms, forces_var=Off()) for model in (eager, fast))
        np.testing.assert_allclose(quick.energy_members, slow.energy_members, rtol=1e-12)
        np.testing.assert_allclose(quick.forces, slow.forces, atol=1e-11)
        assert (quick.stress is None) == (slow.stress is None)
        if slow.stress is not None:
            np.testing.assert_allclose(quick.stress, slow.stress, atol=1e-12)
    assert not [record for record in caplog.records if record.name.startswith("ase_uq")]


def test_the_weighted_baseline_of_a_compiled_model(compiled):
    results = []
    for model in models(compiled):
        atoms = copper()
        baseline = LennardJones(**BASELINE)
        atoms.calc = WeightedBaseline(UQCalculator(model, forces_var="off"), baseline, sigma_baseline=0.3)
        atoms.get_stress()
        results.append(atoms.calc.results)
    assert 0.001 < results[0]["weight"] < 0.999
    for key in ("energy", "weight", "energy_members", "forces", "stress"):
        np.testing.assert_allclose(results[1][key], results[0][key], rtol=1e-9, atol=1e-11)


@compiles
@pytest.mark.parametrize("name", ["switch, model", "switch, baseline", "baseline, members aligned"])
def test_other_targets_of_a_compiled_model(compiled, name):
    results = []
    for model in models(compiled):
        atoms = copper()
        atoms.calc = WRAPPERS[name](UQCalculator(model, forces_var="off"), LennardJones(**BASELINE))
        atoms.get_stress()
        results.append(atoms.calc.results)
    for key in ("energy", "weight", "energy_members", "forces", "stress"):
        np.testing.assert_allclose(results[1][key], results[0][key], rtol=1e-9, atol=1e-11)


@compiles
def test_members_and_directions_of_a_compiled_model(tmp_path):
    # Two members, so that forces of all of them and one random direction are the same package.
    ensemble = ShallowEnsemble(potential(**TINY, n_layers=1), 2, seed=1).requires_grad_(False)
    eager, fast = models(CompiledPotential([ensemble], folder=tmp_path))
    atoms = copper()
    slow, quick = eager.predict(atoms), fast.predict(atoms)
    np.testing.assert_allclose(quick.forces_members, slow.forces_members, atol=1e-11)
    np.testing.assert_allclose(quick.stress_var, slow.stress_var, rtol=1e-8)
    slow, quick = (m.predict_combined(atoms, forces_var=Stochastic(seed=3)) for m in (eager, fast))
    np.testing.assert_allclose(quick.forces_var, slow.forces_var, rtol=1e-8)
    assert len(list(tmp_path.iterdir())) == 1


@compiles
def test_a_package_is_kept_and_serves_every_model_of_its_architecture(compiled):
    other = ShallowEnsemble(potential(seed=5, **TINY), 3, seed=8).requires_grad_(False)
    other.potential.set_reference(shifts=[0.4, 0.5, 0.6], scale=0.7, mean_neighbours=20.0)
    again = CompiledPotential([other], folder=compiled.folder)
    graph = build_graph(copper(), other.cutoff)
    compiled.evaluate(graph, directions=torch.zeros(0, 3, dtype=torch.float64))
    kept = sorted(compiled.folder.iterdir())
    found = again.evaluate(graph, directions=torch.zeros(0, 3, dtype=torch.float64))
    assert sorted(compiled.folder.iterdir()) == kept
    np.testing.assert_allclose(found.energies, evaluate(other, graph).energies, rtol=1e-12)
    wider = ShallowEnsemble(potential(**{**TINY, "channels": 5}), 3, seed=1)
    more = ShallowEnsemble(potential(**TINY), 4, seed=1)
    assert len({CompiledPotential([each], folder=compiled.folder)._key for each in (other, wider, more)}) == 3


@compiles
def test_a_compiled_deep_ensemble_is_its_members(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # In single precision, where radial functions are tables; the other tests have networks.
    made = DeepEnsemble([potential(seed, **TINY, n_layers=1, dtype="float32") for seed in range(3)])
    eager, fast = MemberUncertainty(made), MemberUncertainty(made, compile="auto")
    for atoms in (copper(), water()):
        slow, quick = eager.predict(atoms), fast.predict(atoms)
        for key in ("energy_members", "forces_members", "energy_var", "forces_var", "stress"):
            if getattr(slow, key) is not None:
                np.testing.assert_allclose(getattr(quick, key), getattr(slow, key), rtol=1e-5, atol=1e-5)
    assert len(list((tmp_path / "ase_uq").iterdir())) == 1


def test_what_is_too_small_to_compile_is_evaluated_eagerly(compiled):
    eager, fast = models(compiled)
    lone = Atoms("Cu")
    assert fast.predict(lone).energy == eager.predict(lone).energy


def test_without_a_compiler_evaluation_stays_eager(monkeypatch, tmp_path, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("no C++ compiler\nand many lines more")

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ensemble = ShallowEnsemble(potential(**TINY), 3).requires_grad_(False)
    model = MemberUncertainty(ensemble, compile="auto")
    with caplog.at_level(logging.WARNING):
        first = model.predict_combined(water(), forces_var=Off())
        model.predict_combined(water(), forces_var=Off())
    ours = [record for record in caplog.records if record.name.startswith("ase_uq")]
    assert [record.getMessage() for record in ours] == ["no compiled model, evaluation stays eager: no C++ compiler"]
    assert first.energy == MemberUncertainty(ensemble).predict(water()).energy
    assert not list(tmp_path.rglob("*.pt2"))


def test_bad_input():
    with pytest.raises(InputError, match="`compile` must be 'auto' or 'off', got 'always'"):
        MemberUncertainty(ShallowEnsemble(potential(**TINY), 3), compile="always")
