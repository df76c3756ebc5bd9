"""Shallow ensembles: one body, M last layers, and as few backward passes as the question needs."""

import numpy as np
import pytest
import torch
from ase import units
from ase.calculators.lj import LennardJones
from ase.md.verlet import VelocityVerlet

from ase_uq import (
    CommitteeUncertainty,
    InputError,
    UncertaintyLogger,
    UQCalculator,
    WeightedBaseline,
    load,
    read_log,
    save,
)
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import EquivariantPotential, ShallowEnsemble, evaluate
from ase_uq.potentials.graph import build_graph
from ase_uq.report import write_report
from ase_uq.testing import assert_potential, assert_uncertainty_model
from ase_uq.uncertainty.force_variance import Exact, LowRank, Off, Stochastic
from tests.made.potentials import ensemble, potential, shallow
from tests.made.structures import STRUCTURES, copper, water

ALPHA = 1.7


def model(n_members=5, alpha=ALPHA):
    return MemberUncertainty(shallow(n_members), alpha=alpha)


def rattled_copper():
    atoms = copper()
    atoms.rattle(0.05, seed=4)
    return atoms


def test_it_obeys_the_protocols():
    assert_potential(shallow(), build_graph(water(), 3.5), step=3e-5, tolerance=1e-7)
    for make in STRUCTURES.values():
        assert_uncertainty_model(model(), make(), step=3e-5, tolerance=1e-6)


def test_the_mean_is_the_body_and_every_head_a_last_layer():
    body = potential(seed=1)
    heads = ShallowEnsemble(body, 4)
    graph = build_graph(rattled_copper(), body.cutoff)
    members, alone = heads.energies(graph).detach(), body.energies(graph).detach()
    assert members.mean().item() == pytest.approx(alone.item(), abs=1e-12)
    # The same member as a potential of its own: the body with its last layer moved by the deviation.
    deviation = heads.deviations().detach()[:, 2]
    features = body.summed_features(graph).detach()
    assert members[2, 0].item() == pytest.approx(alone.item() + (features @ deviation).item(), abs=1e-12)
    assert features.shape == (1, body.n_features)
    assert body.features(graph).sum(dim=0).detach().numpy() == pytest.approx(features[0].numpy())


def test_energies_of_a_potential_are_linear_in_its_features():
    body = potential(n_layers=3, hidden_l_max=1)
    graph = build_graph(water(), body.cutoff)
    by_hand = body.summed_features(graph) @ body.readout() + body.reference_energies(graph)
    assert body.energies(graph)[0].item() == pytest.approx(by_hand.item(), abs=1e-13)


@pytest.mark.parametrize("make", [water, rattled_copper])
def test_a_combination_in_one_pass_is_the_combination_of_members(make):
    atoms, members = make(), shallow()
    graph = build_graph(atoms, members.cutoff)
    coefficients = torch.tensor([[0.3, -1.0, 0.2, 2.0, 0.1], [0.0, 0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    every = evaluate(members, graph, stress=True)
    some = evaluate(members, graph, stress=True, combine=lambda _: coefficients)
    assert torch.equal(some.energies, every.energies)
    np.testing.assert_allclose(some.forces, torch.einsum("km,mnx->knx", coefficients, every.forces), atol=1e-12)
    np.testing.assert_allclose(some.stresses, torch.einsum("km,msx->ksx", coefficients, every.stresses), atol=1e-13)


def test_cheap_predictions_have_the_energies_forces_and_stress_of_the_exact_one():
    atoms = rattled_copper()
    exact = model().predict(atoms)
    for estimator in (Off(), Stochastic(), Exact()):
        cheap = model().predict_combined(atoms, forces_var=estimator)
        np.testing.assert_allclose(cheap.energy_members, exact.energy_members, rtol=1e-14)
        assert cheap.energy_var == pytest.approx(exact.energy_var, rel=1e-10)
        np.testing.assert_allclose(cheap.forces, exact.forces, atol=1e-12)
        np.testing.assert_allclose(cheap.stress, exact.stress, atol=1e-13)
    assert model().predict_combined(atoms, forces_var=Off()).forces_var is None
    np.testing.assert_allclose(model().predict_combined(atoms, forces_var=Exact()).forces_var, exact.forces_var)


def test_the_stochastic_variance_is_unbiased():
    atoms, estimator, made = rattled_copper(), Stochastic(seed=5), model()
    exact = made.predict(atoms)
    draws = np.array([made.predict_combined(atoms, forces_var=estimator).forces_var for _ in range(800)])
    # One draw is chi-squared with one degree of freedom: relative std of sqrt(2).
    z = (draws.mean(axis=0) / exact.forces_var - 1.0) / np.sqrt(2.0 / len(draws))
    assert np.abs(z).max() < 4.5
    assert 0.8 < (draws.std(axis=0) / exact.forces_var).mean() / np.sqrt(2.0) < 1.2


def test_the_same_seed_draws_the_same_combinations():
    atoms = water()
    one, two = (model().predict_combined(atoms, forces_var=Stochastic(seed=8)).forces_var for _ in range(2))
    assert (one == two).all()


def test_low_rank_meets_its_tolerance_and_says_by_how_much():
    made, estimator = model(8), LowRank(tolerance=0.05, check_every=4)
    atoms = rattled_copper()
    first = made.predict_combined(atoms, forces_var=estimator)
    assert first.forces_members is not None  # exact: the directions come from it
    assert 1 <= estimator.rank < 8
    errors = []
    for seed in range(3):
        atoms.rattle(0.003, seed=seed)
        cheap, exact = made.predict_combined(atoms, forces_var=estimator), made.predict(atoms)
        assert cheap.forces_members is None
        difference = cheap.forces_std - exact.forces_std
        errors.append(np.sqrt((difference**2).mean() / (exact.forces_std**2).mean()))
        np.testing.assert_allclose(cheap.forces, exact.forces, atol=1e-12)
    assert max(errors) < 0.08
    made.predict_combined(atoms, forces_var=estimator)  # the fifth: exact again, and the error of the old ones measured
    assert estimator.error == pytest.approx(errors[-1], rel=1e-6)


def test_low_rank_with_all_directions_is_exact():
    made, estimator = model(4), LowRank(tolerance=1e-9)
    atoms = rattled_copper()
    made.predict_combined(atoms, forces_var=estimator)
    assert estimator.rank == 3
    cheap = made.predict_combined(atoms, forces_var=estimator)
    np.testing.assert_allclose(cheap.forces_var, made.predict(atoms).forces_var, rtol=1e-9)
    np.testing.assert_allclose(cheap.stress_var, made.predict(atoms).stress_var, rtol=1e-9)


def test_low_rank_warns_when_its_directions_have_aged(caplog):
    estimator = LowRank(tolerance=0.05, check_every=1)
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(6, 1, 1)) * rng.normal(size=(1, 10, 3))
    estimator.learn(pattern)
    assert estimator.rank == 1
    estimator.learn(rng.normal(size=(6, 10, 3)))
    assert "lower check_every, or use exact" in caplog.text


# --- the dial of the calculator -------------------------------------------------------------------------------------


class Counting(ShallowEnsemble):
    calls = 0

    def energies(self, graph):
        Counting.calls += 1  # of all copies
        return super().energies(graph)


def test_what_was_not_computed_is_absent_and_asking_computes_it_once():
    atoms = rattled_copper()
    made = Counting(potential(), 4)
    atoms.calc = UQCalculator(MemberUncertainty(made), every=3)
    has = []
    for step in range(7):
        atoms.rattle(0.001, seed=step)
        atoms.get_forces()
        has.append("forces_var" in atoms.calc.results)
        assert "energy_var" in atoms.calc.results
    assert has == [True, False, False, True, False, False, True]
    atoms.rattle(0.001, seed=9)
    atoms.get_forces()
    assert "forces_var" not in atoms.calc.results
    before = made.calls
    first = atoms.calc.get_property("forces_var", atoms)
    second = atoms.calc.get_property("forces_var", atoms)
    atoms.get_stress()
    assert made.calls == before + 1
    assert (first == second).all()
    np.testing.assert_allclose(first, MemberUncertainty(made).predict(atoms).forces_var)


def test_off_declares_what_it_gives():
    atoms = rattled_copper()
    atoms.calc = UQCalculator(model(), forces_var="off")
    atoms.get_forces()
    assert not {"forces_var", "stress_var"} & (set(atoms.calc.results) | set(atoms.calc.implemented_properties))
    assert atoms.calc.results["energy_var"] > 0


@pytest.mark.parametrize("kind", ["committee", "deep"])
def test_the_dial_means_the_same_for_members_that_share_nothing(kind):
    made = (
        CommitteeUncertainty([LennardJones(sigma=s, rc=6.0) for s in (2.2, 2.3)])
        if kind == "committee"
        else MemberUncertainty(ensemble())
    )
    atoms = rattled_copper()
    exact = made.predict(atoms, ())
    atoms.calc = UQCalculator(made, forces_var="stochastic", every=2)
    atoms.get_forces()
    np.testing.assert_allclose(atoms.calc.results["forces_var"], exact.forces_var)
    atoms.rattle(0.01)
    atoms.get_forces()
    assert "forces_var" not in atoms.calc.results


@pytest.mark.parametrize("make", [water, rattled_copper])
def test_the_weighted_baseline_in_one_pass_equals_the_one_from_members(make):
    atoms = make()
    baseline = LennardJones(sigma=1.2, epsilon=0.05, rc=6.0, smooth=True)
    results = {}
    for forces_var in ("exact", "off", "stochastic"):
        own = atoms.copy()
        own.calc = WeightedBaseline(UQCalculator(model(), forces_var=forces_var), baseline, sigma_baseline=0.3)
        own.get_forces()
        results[forces_var] = own.calc.results
    exact = results["exact"]
    assert 0.01 < exact["weight"] < 0.99
    assert "forces_var" in results["stochastic"]
    assert "forces_var" not in results["off"]
    for name in ("off", "stochastic"):
        for key in ("energy", "weight", "energy_members", "energy_var"):
            np.testing.assert_allclose(results[name][key], exact[key], rtol=1e-10)
        np.testing.assert_allclose(results[name]["forces"], exact["forces"], atol=1e-10)
        if "stress" in exact:
            np.testing.assert_allclose(results[name]["stress"], exact["stress"], atol=1e-11)


# --- file, bad input ------------------------------------------------------------------------------------------------


def test_a_saved_shallow_ensemble_predicts_the_same(tmp_path):
    original = model()
    save(original, tmp_path / "model.pt")
    back = load(tmp_path / "model.pt")
    atoms = water()
    assert back.n_members == 5
    assert (back.predict(atoms).energy_members == original.predict(atoms).energy_members).all()
    assert back.model_hash == original.model_hash


def test_bad_input():
    with pytest.raises(InputError, match="`n_members` must be at least 2"):
        ShallowEnsemble(potential(), 1)
    with pytest.raises(InputError, match="must have last-layer features, ShallowEnsemble has none"):
        ShallowEnsemble(shallow(), 4)
    with pytest.raises(InputError, match="`forces_var` must be one of exact, low_rank, stochastic, off, got 'fast'"):
        UQCalculator(model(), forces_var="fast")
    with pytest.raises(InputError, match="`every` must be at least 1"):
        UQCalculator(model(), every=0)
    with pytest.raises(InputError, match="`members` needs forces_var='exact'"):
        UQCalculator(model(), members=True, forces_var="off")
    with pytest.raises(InputError, match="`tolerance` must lie between 0 and 1"):
        LowRank(tolerance=0.0)
    with pytest.raises(InputError, match="`members` needs a UQCalculator with forces_var='exact'"):
        WeightedBaseline(UQCalculator(model(), forces_var="off"), LennardJones(), sigma_baseline=0.1, members=True)


def test_float32_bodies_keep_the_differences_between_heads():
    single, double = (
        ShallowEnsemble(EquivariantPotential(["Cu"], 3.5, channels=8, dtype=dtype), 4)
        for dtype in ("float32", "float64")
    )
    graph = build_graph(rattled_copper(), 3.5)
    a, b = (heads.energies(graph).detach()[:, 0] for heads in (single, double))
    assert (a - a.mean()).numpy() == pytest.approx((b - b.mean()).numpy(), rel=1e-4, abs=1e-6)


def test_the_log_keeps_a_place_for_what_is_estimated_now_and_then(tmp_path):
    atoms = rattled_copper()
    atoms.calc = UQCalculator(model(), forces_var="stochastic", every=3)
    dyn = VelocityVerlet(atoms, 1.0 * units.fs)
    with UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300.0, store=["forces_var"]) as log:
        dyn.attach(log)
        dyn.run(7)
    run = read_log(tmp_path / "run.h5")
    assert np.isfinite(run.force_std_max).tolist() == [True, False, False, True, False, False, True, False]
    assert np.isfinite(run.forces_var).all(axis=(1, 2)).tolist() == np.isfinite(run.force_std_max).tolist()
    assert np.isfinite(run.energy_var).all()
    assert {key: value for key, value in run.attributes.items() if key.startswith("forces_var")} == {
        "forces_var": "stochastic", "forces_var_every": 3, "forces_var_seed": 0,
    }  # fmt: skip
    write_report(tmp_path / "run.h5", tmp_path / "run.html")
    page = (tmp_path / "run.html").read_text()
    assert "the estimator stochastic (every=3, seed=0)" in page
