"""What the spread of members says: it travels from the model to every interval, and is right for every kind."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin
from scipy.stats import norm, t

import ase_uq
from ase_uq.models.llpr import LLPRUncertainty, posterior_covariance
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import DeepEnsemble, EquivariantPotential, ShallowEnsemble, make_variational, sample_members
from ase_uq.reweighting import reweight
from ase_uq.reweighting.spread import MemberSeries, SpreadLaw
from ase_uq.structures.frames import Frame
from ase_uq.uncertainty.prediction import Prediction
from ase_uq.validation.residuals import Residuals, residuals, with_factors
from tests.made.structures import water

TINY = {"elements": ["O", "H"], "cutoff": 3.0, "channels": 4, "n_layers": 1, "l_max": 1, "radial_width": 8}


def body(seed=0):
    return EquivariantPotential(**TINY, seed=seed)


def models():
    features = body().n_features
    covariance = posterior_covariance(torch.eye(features, dtype=torch.float64))
    return {
        "deep": (MemberUncertainty(DeepEnsemble([body(s) for s in range(3)])), 1 / 3, 2.0),
        "shallow": (MemberUncertainty(ShallowEnsemble(body(), n_members=5)), 0.0, 4.0),
        "blip": (MemberUncertainty(sample_members(make_variational(body()), n_members=6, seed=0)), 0.0, 5.0),
        "llpr": (LLPRUncertainty(body(), covariance), 0.0, np.inf),
        "llpr of few": (LLPRUncertainty(body(), covariance, n_members=3), 0.0, 2.0),
    }


@pytest.mark.parametrize("name", ["deep", "shallow", "blip", "llpr", "llpr of few"])
def test_a_model_says_whether_its_mean_is_pinned_and_its_spread_exact(name, tmp_path):
    model, share, dof = models()[name]
    assert (model.mean_share, model.dof) == (share, dof)
    ase_uq.save(model.calibrated(0.7, {}, alpha_forces=2.0, alpha_stress=3.0), tmp_path / "m.pt")
    again = ase_uq.load(tmp_path / "m.pt")
    assert (again.mean_share, again.dof, again.alpha_forces, again.alpha_stress) == (share, dof, 2.0, 3.0)
    prediction = again.predict(water())
    assert (prediction.mean_share, prediction.dof) == (share, dof)
    assert (prediction.alpha, prediction.alpha_forces) == (0.7, 2.0)
    raw = model.predict(water())
    np.testing.assert_allclose(prediction.forces_var, 4.0 * raw.forces_var, rtol=1e-6)
    assert prediction.energy_var == pytest.approx(0.49 * raw.energy_var, rel=1e-6)
    np.testing.assert_allclose(prediction.forces_members.std(0), 0.7 * raw.forces_members.std(0), rtol=1e-5, atol=1e-12)
    assert again.model_hash != model.model_hash != model.calibrated(1.0, {}, alpha_forces=2.0).model_hash


def test_a_committee_is_independent_members_and_takes_factors():
    members = [LennardJones(sigma=s) for s in (0.98, 1.0, 1.02, 1.03)]
    model = ase_uq.CommitteeUncertainty(members, alpha=2.0, alpha_forces=3.0)
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.2]])
    plain, scaled = ase_uq.CommitteeUncertainty(members).predict(atoms, []), model.predict(atoms, [])
    np.testing.assert_allclose(scaled.forces_var, 9.0 * plain.forces_var)
    assert scaled.energy_var == pytest.approx(4.0 * plain.energy_var)
    assert (scaled.mean_share, scaled.dof) == (0.25, 3.0)
    assert model.model_hash != ase_uq.CommitteeUncertainty(members, alpha=2.0).model_hash


def test_the_readme_s_reweight_gives_the_intervals_of_the_log(tmp_path):
    """alpha, and whether the mean is pinned, travel with `run.energy_members`."""
    members = [LennardJones(sigma=s, epsilon=0.1, rc=50.0) for s in (0.98, 1.0, 1.02, 1.03)]
    atoms = Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 1.15]])
    atoms.calc = ase_uq.UQCalculator(ase_uq.CommitteeUncertainty(members, alpha=0.3))
    rng = np.random.default_rng(0)
    dyn = Langevin(atoms, 1 * units.fs, temperature_K=100, friction=0.02 / units.fs, fixcm=False, rng=rng)
    observables = {"r": lambda a: a.get_distance(0, 1)}
    online = ase_uq.OnlineReweighter(atoms, temperature_K=100.0, observables=observables, dyn=dyn)
    path = tmp_path / "run.h5"
    with ase_uq.UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=100.0, observables=observables) as log:
        dyn.attach(log)
        dyn.attach(online)
        dyn.run(400)
    run = ase_uq.read_log(path)
    assert run.attributes["mean_share"] == 0.25
    roads = {
        "log": ase_uq.reweight_log(path, ["r"])["r"],
        "online": online.results()["r"],
        "arrays": reweight(
            run.observables["r"],
            energy_members=run.energy_members,
            energy_reference=run.energy,
            temperature_K=100.0,
        ),
        "part": reweight(
            run.observables["r"],
            energy_members=run.energy_members_minus_energy[:],
            energy_reference=np.zeros(run.n_frames),
            temperature_K=100.0,
        ),
    }
    for name, result in roads.items():
        assert result.alpha == 0.3, name
        assert result.interval(0.95) == pytest.approx(roads["log"].interval(0.95), rel=1e-6), name
    # With alpha of 0.3 the error of the mean of four members is larger than their calibrated spread.
    forgotten = reweight(
        run.observables["r"],
        energy_members=np.asarray(run.energy_members),
        energy_reference=run.energy,
        temperature_K=100.0,
    )
    assert np.ptp(forgotten.interval(0.95)) < np.ptp(roads["log"].interval(0.95))


def test_member_series_is_an_array_that_remembers():
    series = MemberSeries(np.ones((4, 3)), SpreadLaw(0.5, 0.0, np.inf))
    slow = MemberSeries(np.ones((4, 3)), SpreadLaw(), relaxation_frames=8.0, biased=True)
    assert (slow[::2].relaxation_frames, slow[1:].relaxation_frames, slow[:, 0].relaxation_frames) == (4.0, 8.0, 8.0)
    with pytest.raises(ase_uq.errors.InputError, match="`log_weights` must be given for the frames of a biased run"):
        reweight(np.ones(4), energy_members=slow, energy_reference=np.ones(4), temperature_K=300.0)
    for part in (series[1:], series.T, series + 1.0, pickle.loads(pickle.dumps(series))):
        assert part.law == series.law
    assert np.asarray(series[0]).sum() == 3.0
    assert SpreadLaw.of_log({"alpha": 2.0, "other": 1}) == SpreadLaw(2.0)


@pytest.mark.parametrize(("share", "dof"), [(None, None), (0.0, None), (0.0, np.inf)])
def test_intervals_of_averages_follow_the_law(share, dof):
    rng = np.random.default_rng(0)
    x = rng.normal(size=40_000)
    members = 0.02 * x[:, None] * np.array([-1.0, -0.5, 0.2, 0.4, 0.9])
    result = reweight(
        x,
        energy_members=members,
        energy_reference=members.mean(axis=1),
        temperature_K=300.0,
        alpha=0.5,
        mean_share=share,
        dof=dof,
    )
    model = result.std_model**2 * (1.0 + (0.2 if share is None else share) / 0.25)
    width = np.sqrt(model + result.std_sampling**2)
    quantile = norm.ppf(0.975) if dof is not None else t.ppf(0.975, df=4)
    low, high = result.interval(0.95)
    assert 0.5 * (high - low) == pytest.approx(quantile * width, rel=0.01)


def found(n_frames=60, *, n_members=6, constants=0.0, seed=0, pinned=False, stress=False):
    """Predictions of members that scatter about the truth like one of them."""
    rng = np.random.default_rng(seed)
    shifts = constants * rng.normal(size=n_members + 1)
    frames, predictions = [], []
    for _ in range(n_frames):
        width = rng.uniform(0.5, 2.0)
        energies = width * 0.01 * rng.normal(size=n_members + 1) + shifts
        forces = width * 0.1 * rng.normal(size=(n_members + 1, 3, 3))
        stresses = width * 0.001 * rng.normal(size=(n_members + 1, 6)) if stress else None
        atoms = water()
        if pinned:
            for values in (energies, forces) + ((stresses,) if stress else ()):
                values[:-1] -= values[:-1].mean(axis=0)
        label = None if stresses is None else stresses[-1]
        frames.append(Frame(atoms, float(energies[-1]), forces[-1], label, "kind"))
        predictions.append(
            Prediction.from_members(
                energies=energies[:-1],
                forces=forces[:-1],
                stresses=None if stresses is None else stresses[:-1],
                mean_share=0.0 if pinned else None,
            )
        )
    return Residuals(tuple(frames), tuple(predictions))


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("constants", [0.0, 0.2])
def test_intervals_hold_what_they_say_whatever_the_constants(pinned, constants):
    held = {name: [] for name in ("energy", "forces", "stress")}
    for seed in range(12):
        options = {"pinned": pinned, "constants": constants, "stress": True}
        fitted = found(150, seed=seed, **options).factors()
        assert set(fitted) == {"energy", "forces", "stress"}
        assert fitted["energy"].centred == "composition"
        test = found(100, seed=1000 + seed, **options)
        factors = {
            "alpha": fitted["energy"].alpha,
            "alpha_forces": fitted["forces"].alpha,
            "alpha_stress": fitted["stress"].alpha,
        }
        calibrated = tuple(
            Prediction.from_members(
                energies=p.energy_members,
                forces=p.forces_members,
                stresses=p.stress_members,
                mean_share=p.mean_share,
                **factors,
            )
            for p in test.predictions
        )
        scored = Residuals(test.frames, calibrated)
        for name, scores in (
            ("energy", scored.energy_scores(centred=True)),
            ("forces", scored.force_scores()),
            ("stress", scored.stress_scores()),
        ):
            held[name].append((scores.coverage_68, scores.coverage_95))
    for name, shares in held.items():
        low, high = np.mean(shares, axis=0)
        assert 0.64 < low < 0.72, name
        assert 0.93 < high < 0.97, name


def test_with_factors_keeps_what_they_were_fitted_on():
    model = MemberUncertainty(ShallowEnsemble(body(), n_members=5))
    fitted = found(pinned=True, n_members=5).factors()
    calibrated = with_factors(model, fitted, data="valid.xyz")
    assert calibrated.alpha == fitted["energy"].alpha
    assert calibrated.alpha_forces == fitted["forces"].alpha == calibrated.calibration["alpha_forces"]
    assert calibrated.calibration["data"] == "valid.xyz"
    assert calibrated.alpha_stress is None


def test_a_model_without_members_is_scored_and_not_calibrated():
    class Widths:
        def predict(self, atoms, properties):
            n = len(atoms)
            return Prediction(
                0.0, np.zeros((n, 3)), energy_var_aleatoric=0.01, forces_var_aleatoric=np.full((n, 3), 0.04)
            )

    rng = np.random.default_rng(0)
    frames = [Frame(water(), float(0.1 * rng.normal()), 0.2 * rng.normal(size=(3, 3)), None, "") for _ in range(200)]
    judged = residuals(Widths(), frames)
    assert judged.force_scores().within_1_sigma == pytest.approx(0.683, abs=0.04)
    assert judged.energy_scores(centred=True).coverage_95 == pytest.approx(0.95, abs=0.04)
    assert judged.stress_scores() is None
    assert judged.force_yardsticks()[0].factor == pytest.approx(1.0, abs=0.05)
    with pytest.raises(ase_uq.errors.InputError, match="calibration needs `energy_var`"):
        judged.calibrate()


def test_old_logs_without_the_law_are_read_as_independent_members():
    law = SpreadLaw.of_log(SimpleNamespace(alpha=1.5).__dict__)
    assert law.of_members(4) == (1.0 + 0.25 / 2.25, 3.0)
