import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.md.langevin import Langevin
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter

from ase_uq.averages.online import OnlineReweighter
from ase_uq.calculators.calculator import UQCalculator
from ase_uq.calculators.committee import CommitteeUncertainty
from ase_uq.errors import InputError
from ase_uq.reweighting import reweight
from ase_uq.reweighting.statistics import sampling_error

TEMPERATURE = 300.0
KT = units.kB * TEMPERATURE
METHODS = ["cea", "direct"]


def ar1(rng, phi, n_frames, n_series):
    noise = rng.normal(size=(n_series, n_frames)) * np.sqrt(1 - phi**2)
    noise[:, 0] /= np.sqrt(1 - phi**2)
    return lfilter([1], [1, -phi], noise, axis=1)


def frames(seed, n_frames, *, phi=0.9, drift=0.0):
    """A correlated observable, four members with constants of their own, and the driving energy, eV.

    `drift` moves all members together against the driving energy.
    """
    rng = np.random.default_rng(seed)
    a, *noise = ar1(rng, phi, n_frames, 5)
    h = 0.3 * np.array(noise).T + a[:, None] * [-0.4, -0.2, 0.1, 0.4]
    h += drift * noise[0][:, None] - h.mean(axis=1, keepdims=True)
    reference = -1e5 + 0.1 * rng.normal(size=n_frames)
    return a + 12.0, reference[:, None] + KT * h + [0.0, 3.0, -50.0, 20.0], reference


def feed(a, members, reference, *, method="cea"):
    online = OnlineReweighter(Atoms(), temperature_K=TEMPERATURE, observables={"a": len}, method=method)
    for value, energies, energy in zip(a, members, reference, strict=True):
        online.update(energy, energies, {"a": value})
    return online


def batch(a, members, reference, method="cea"):
    return reweight(a, energy_members=members, energy_reference=reference, temperature_K=TEMPERATURE, method=method)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_frames=st.integers(20, 700),
    drift=st.sampled_from([0.0, 0.5]),
    method=st.sampled_from(METHODS),
)
def test_means_and_members_equal_reweight(seed, n_frames, drift, method):
    a, members, reference = frames(seed, n_frames, drift=drift)
    online = OnlineReweighter(Atoms(), temperature_K=TEMPERATURE, observables={"a": len, "square": len}, method=method)
    for value, energies, energy in zip(a, members, reference, strict=True):
        online.update(energy, energies, {"square": value**2, "a": value})
    results = online.results()
    for name, observable in (("a", a), ("square", a**2)):
        ours, theirs = results[name], batch(observable, members, reference, method)
        np.testing.assert_allclose(ours.member_means, theirs.member_means, rtol=1e-10)
        assert ours.mean == pytest.approx(theirs.mean, rel=1e-10)
        assert ours.std_model_naive == pytest.approx(theirs.std_model_naive, rel=1e-7)
        assert ours.max_std_h == pytest.approx(theirs.max_std_h, rel=1e-7)
        assert ours.n_frames == n_frames


@pytest.mark.parametrize("method", METHODS)
def test_errors_equal_reweight_within_their_own_error(method):
    a, members, reference = frames(0, 10_000)
    ours, theirs = feed(a, members, reference, method=method).results()["a"], batch(a, members, reference, method)
    assert ours.std_sampling == pytest.approx(theirs.std_sampling, rel=0.2)
    assert ours.noise == pytest.approx(theirs.noise, rel=0.3)
    assert ours.std_model == pytest.approx(theirs.std_model, rel=0.01)
    assert ours.std_total == pytest.approx(np.hypot(ours.std_sampling, ours.std_model))
    assert ours.statistical_inefficiency == pytest.approx(theirs.statistical_inefficiency, rel=0.4)
    assert ours.warnings == theirs.warnings == ()


@pytest.mark.parametrize("method", METHODS)
def test_sampling_error_is_the_spread_of_repeated_runs(method):
    means, errors = [], []
    for seed in range(40):
        result = feed(*frames(seed, 500, phi=0.5, drift=0.3), method=method).results()["a"]
        means.append(result.mean)
        errors.append(result.std_sampling)
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.3)


@pytest.mark.parametrize("method", METHODS)
def test_sampling_error_of_a_reweighted_mean(method):
    """A skewed observable and members that all shift the same way: the bar is not that of the plain average."""
    rng = np.random.default_rng(4)
    a = rng.exponential(size=4000) + 2.0
    h = 0.8 * a[:, None] * [[0.8, 1.0, 1.2]]
    result = feed(a, KT * h, np.zeros(4000), method=method).results()["a"]
    if method == "cea":
        influence = (a - a.mean()) * (1 - (h - h.mean(axis=0)).mean(axis=1))
        assert result.std_sampling == pytest.approx(sampling_error(influence).std, rel=1e-3)
    else:
        assert result.std_sampling == pytest.approx(batch(a, KT * h, np.zeros(4000), method).std_sampling, rel=0.2)
        assert result.std_sampling < 0.6 * a.std() / np.sqrt(4000)


@pytest.mark.parametrize(("rare", "judged"), [(0.5, True), (0.01, False)])
def test_direct_weights_judge_the_expansion_only_where_they_keep_frames(rare, judged):
    state = (np.random.default_rng(5).random(3000) < rare).astype(float)
    members = KT * state[:, None] * [[-8.0, -7.0, -6.0, -5.5]]
    result = feed(state, members, np.zeros(3000)).results()["a"]
    assert any("not Gaussian" in w for w in result.warnings) == judged


def test_model_error_is_freed_from_sampling_noise():
    debiased, naive = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        series = ar1(rng, 0.8, 500, 5)
        members = 0.5 * KT * (series[1:] - series[1:].mean(axis=0)).T
        result = feed(series[0], members, np.zeros(500)).results()["a"]
        naive.append(result.std_model_naive**2)
        debiased.append(result.std_model_naive**2 - result.noise)
    assert np.mean(naive) > 0.0015  # 0.5^2 g / T, g of the product 4.6
    assert abs(np.mean(debiased)) < 0.2 * np.mean(naive)


def test_the_sampling_bar_of_an_alternating_series_makes_no_frames_of_it():
    a = ar1(np.random.default_rng(1), -0.9, 2000, 1)[0]
    result = feed(a, np.zeros((2000, 2)), np.zeros(2000)).results()["a"]
    assert result.std_sampling == pytest.approx(np.sqrt(0.1 / 1.9 / 2000), rel=0.25)
    assert (result.statistical_inefficiency, result.ess) == (1.0, 2000.0)


def test_growing_weights_do_not_overflow():
    """Every frame outweighs all before it."""
    n = 600
    a = np.arange(n, dtype=float)
    members = -KT * 50.0 * a[:, None] * [[1.0, -1.0]]
    result = feed(a, members, np.zeros(n), method="direct").results()["a"]
    assert result.member_means == pytest.approx([n - 1, 0.0])
    assert any("not reliable" in w for w in result.warnings)


def test_before_there_are_enough_frames_there_is_a_mean_and_no_error():
    a, members, reference = frames(3, 19)
    result = feed(a, members, reference).results()["a"]
    assert result.mean == pytest.approx(
        a.mean() - np.mean([np.cov(a, m, ddof=0)[0, 1] for m in (members.T - reference) / KT])
    )
    assert np.isnan([result.std_sampling, result.std_model, result.std_total]).all()
    assert "only 19 frames" in result.warnings[0]
    first = feed(a[:1], members[:1], reference[:1]).results()["a"]
    assert first.member_means.tolist() == [a[0]] * 4


# ---------------------------------------------------------------------------------------------------------------------
# Attached to a run
# ---------------------------------------------------------------------------------------------------------------------


class Counting(CommitteeUncertainty):
    calls = 0

    def predict(self, atoms, properties):
        self.calls += 1
        return super().predict(atoms, properties)


def lennard_jones():
    members = [LennardJones(sigma=2.6 * s, epsilon=0.05, rc=6.0) for s in (0.998, 1.0, 1.002)]
    atoms = bulk("Ar", "fcc", a=4.1, cubic=True)
    model = Counting(members)
    atoms.calc = UQCalculator(model)
    return atoms, model


def test_during_a_run_it_equals_reweight_and_computes_nothing():
    atoms, model = lennard_jones()
    online = OnlineReweighter(
        atoms, temperature_K=40.0, observables={"distance": lambda a: a.get_distance(0, 1, mic=True)}
    )
    kept = []
    dyn = Langevin(atoms, 2 * units.fs, temperature_K=40.0, friction=0.05, fixcm=False, rng=np.random.default_rng(0))
    dyn.attach(online)
    dyn.attach(
        lambda: kept.append(
            (atoms.get_distance(0, 1, mic=True), atoms.calc.results["energy_members"], atoms.calc.results["energy"])
        )
    )
    dyn.run(60)
    assert model.calls == 61
    distance, members, energy = (np.array(column) for column in zip(*kept, strict=True))
    theirs = reweight(distance, energy_members=members, energy_reference=energy, temperature_K=40.0)
    ours = online.results()["distance"]
    assert online.n_frames == ours.n_frames == 61
    np.testing.assert_allclose(ours.member_means, theirs.member_means, rtol=1e-10)
    assert ours.mean == pytest.approx(distance.mean(), rel=1e-12)


def test_results_of_other_atoms_are_refused():
    atoms, model = lennard_jones()
    online = OnlineReweighter(atoms, temperature_K=40.0, observables={"volume": Atoms.get_volume})
    with pytest.raises(InputError, match="must hold the results of the present step"):
        online()
    atoms.get_potential_energy()
    atoms.rattle(0.1, seed=0)
    with pytest.raises(InputError, match="changed positions"):
        online()
    assert (model.calls, online.n_frames) == (1, 0)
    atoms.get_forces()
    online()
    assert (model.calls, online.n_frames) == (2, 1)
    atoms.calc = None
    with pytest.raises(InputError, match="must hold the results"):
        online()


def test_the_energy_the_integrator_saw_is_the_reference():
    atoms, _ = lennard_jones()
    observed = []
    online = OnlineReweighter(atoms, temperature_K=40.0, observables={"energy": lambda _: observed[-1]})
    for seed in range(25):
        atoms.rattle(0.02, seed=seed)
        observed.append(atoms.get_potential_energy())
        atoms.calc.results["energy"] = 0.5 * observed[-1]  # as if another potential had driven
        online()
    result = online.results()["energy"]
    assert any("not the energy that drove" in w for w in result.warnings)


# ---------------------------------------------------------------------------------------------------------------------
# Bad input
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0.0, [0.0], {"x": 1.0}), r"M >= 2 and always the same, got \(1,\) in frame 1"),
        ((0.0, [0.0, 1.0, 2.0], {"x": 1.0}), r"got \(3,\) in frame 1"),
        ((np.nan, [0.0, 1.0], {"x": 1.0}), "`energy_reference`.*finite, got nan"),
        ((0.0, [0.0, np.inf], {"x": 1.0}), "`log_weight` must be finite"),
        ((0.0, [0.0, 1.0], {"y": 1.0}), r"observables \['x'\], got \['y'\]"),
        ((0.0, [0.0, 1.0], {"x": [1.0, 2.0]}), r"observable `x` must keep its shape \(\), got \(2,\) in frame 1"),
    ],
)
def test_a_bad_frame_is_refused_and_not_counted(arguments, words):
    online = OnlineReweighter(Atoms(), temperature_K=TEMPERATURE, observables={"x": len})
    online.update(0.0, [0.0, 1.0], {"x": 1.0})
    with pytest.raises(InputError, match=words):
        online.update(*arguments)
    assert online.n_frames == 1
    assert online.results()["x"].mean == 1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature_K": -1.0}, "must be positive"),
        ({"method": "gaps"}, "'cea', 'direct', 'gap'"),
        ({"observables": {}}, "at least one function"),
    ],
)
def test_bad_construction(change, words):
    with pytest.raises(InputError, match=words):
        OnlineReweighter(Atoms(), **{"temperature_K": 300.0, "observables": {"x": len}} | change)


def test_weights_given_frame_by_frame():
    a, members, reference = frames(0, 2000)
    online = OnlineReweighter(Atoms(), temperature_K=TEMPERATURE, observables={"a": len})
    for value, energies, energy in zip(a, members, reference, strict=True):
        online.update(energy, energies, {"a": value}, log_weight=0.5 * value)
    result = online.results()["a"]
    options = {"energy_members": members, "energy_reference": reference, "temperature_K": TEMPERATURE}
    theirs = reweight(a, log_weights=0.5 * a, **options)
    assert result.mean == pytest.approx(theirs.mean, rel=1e-9)
    assert result.ess == pytest.approx(theirs.ess, rel=0.3)
    assert any(gate.name == "frames that the bias leaves" for gate in result.gates)


def test_no_frames_no_results():
    with pytest.raises(InputError, match="at least one frame"):
        OnlineReweighter(Atoms(), temperature_K=300.0, observables={"x": len}).results()
