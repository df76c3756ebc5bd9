"""Vectors, matrices, observables with members of their own, and functions of averages."""

import numpy as np
import pytest
from ase.units import kB

from ase_uq.errors import InputError
from ase_uq.reweighting import reweight

TEMPERATURE = 300.0
KT = kB * TEMPERATURE


def run(a, h, **options):
    """Reweight with members given by their energy differences h (T, M) in kT from a driving energy of zero."""
    return reweight(a, energy_members=KT * h, energy_reference=np.zeros(len(a)), temperature_K=TEMPERATURE, **options)


def draw(seed=0, n=2000, m=4):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    h = 0.3 * rng.normal(size=(n, m)) + 0.2 * x[:, :1] * np.linspace(-1, 1, m)
    return x, h - h.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("method", ["cea", "direct"])
def test_every_entry_of_a_vector_or_matrix_is_averaged_as_a_scalar(method):
    x, h = draw()
    vector, matrix = run(x, h, method=method), run(x.reshape(-1, 2, 3), h, method=method)
    assert (vector.mean.shape, vector.member_means.shape) == ((6,), (4, 6))
    assert (matrix.mean.shape, matrix.member_means.shape) == ((2, 3), (4, 2, 3))
    np.testing.assert_array_equal(matrix.member_means.reshape(4, 6), vector.member_means)
    np.testing.assert_array_equal(matrix.std_total.ravel(), vector.std_total)
    for k in range(6):
        scalar = run(x[:, k], h, method=method)
        np.testing.assert_allclose(vector.member_means[:, k], scalar.member_means, rtol=1e-9)
        assert vector.mean[k] == pytest.approx(scalar.mean, rel=1e-9)
        assert vector.std_sampling[k] == pytest.approx(scalar.std_sampling, rel=1e-9)
        # Blocks are shared by all entries, so that the noise differs a little.
        assert vector.noise[k] == pytest.approx(scalar.noise, rel=0.7)
        assert vector.std_model_naive[k] == pytest.approx(scalar.std_model_naive, rel=1e-9)


def test_the_worst_entry_of_a_vector_speaks_for_all():
    rng = np.random.default_rng(1)
    state = (rng.random(5000) < 0.5).astype(float)
    h = state[:, None] * [[4.0, -4.0, 2.0, -2.0]]
    result = run(np.stack([rng.normal(size=5000), state, 1 - state], axis=1), h)
    (sentence,) = (w for w in result.warnings if "not Gaussian" in w)
    assert "2 of 3" in sentence
    assert len({gate.name for gate in result.gates}) == len(result.gates)


# ---------------------------------------------------------------------------------------------------------------------
# Members of the observable
# ---------------------------------------------------------------------------------------------------------------------


def by_hand(a, h):
    """<a_j>_i by the expansion, (M, M')."""
    return np.array([[a_j.mean() - np.cov(a_j, h_i, ddof=0)[0, 1] for a_j in a.T] for h_i in h.T])


def test_independent_members_decompose_as_the_literature_says():
    x, h = draw(2, m=5)
    a = 2.0 * x[:, :3] + 0.5 * x[:, 3:4] + [0.0, 1.0, 3.0]
    result = run(a, h, observable_members="independent")
    grid = by_hand(a, h)
    np.testing.assert_allclose(result.member_means, grid, rtol=1e-9)
    assert result.mean == pytest.approx(grid.mean(), rel=1e-9)
    m, own = 5, 3
    observable, potential = a.mean(axis=0).var(ddof=1), grid.var(axis=0, ddof=1).mean()
    total = m * (own - 1) / (m * own - 1) * observable + own * (m - 1) / (m * own - 1) * potential
    assert result.std_model_naive**2 == pytest.approx(total, rel=1e-9)
    assert result.std_observable**2 == pytest.approx(observable, rel=0.02)
    # With the mean driving, the spread of all M M' values is exactly that sum.
    assert grid.var(ddof=1) == pytest.approx(total, rel=1e-9)
    # The arguments are not interchangeable: members of the observable do not reweigh.
    with pytest.raises(InputError, match="match frames"):
        run(a[:, 0], h[:-1])


def test_paired_members_take_the_diagonal():
    x, h = draw(3)
    a = x[:, :1] + 0.3 * x[:, 1:5] + [0.0, 0.1, 0.2, 0.4]
    result = run(a, h, observable_members="paired")
    diagonal = by_hand(a, h).diagonal()
    np.testing.assert_allclose(result.member_means, diagonal, rtol=1e-9, atol=1e-12)
    assert result.std_model_naive == pytest.approx(diagonal.std(ddof=1), rel=1e-9)
    assert result.mean == pytest.approx(diagonal.mean(), rel=1e-9)
    assert result.std_observable == pytest.approx(a.mean(axis=0).std(ddof=1), rel=0.3)


def test_energies_of_springs_are_all_half_kT():
    """V_i = k_i x^2/2 under its own member averages kT/2 whatever k_i; under the others it does not."""
    rng = np.random.default_rng(4)
    k = np.array([0.95, 0.98, 1.02, 1.05])
    x = np.sqrt(KT) * rng.normal(size=200_000)
    members = 0.5 * k * x[:, None] ** 2
    options = {"energy_members": members, "energy_reference": 0.5 * x**2, "temperature_K": TEMPERATURE}
    for method in ("cea", "direct"):
        result = reweight(members, observable_members="paired", method=method, **options)
        np.testing.assert_allclose(result.member_means, KT / 2, rtol=0.01)
        assert result.std_model < 0.2 * result.std_observable  # k_i kT/2 on the same frames
        assert result.std_observable == pytest.approx(KT / 2 * k.std(ddof=1), rel=0.05)
    naive = reweight(members[:, 0], **options)
    assert naive.std_model == pytest.approx(KT / 2 * k.std(ddof=1), rel=0.1)


def test_independent_members_with_a_function_and_with_many_runs():
    x, h = draw(6, n=4000)
    a = x[:, :3] + [3.0, 3.2, 3.5]
    plain, squared = (run(a, h, observable_members="independent", function=f) for f in (None, np.square))
    assert squared.mean == pytest.approx(plain.mean**2, rel=0.02)
    assert squared.std_observable == pytest.approx(2 * plain.mean * plain.std_observable, rel=0.1)
    assert squared.std_model == pytest.approx(2 * plain.mean * plain.std_model, rel=0.15)
    runs = run(a, h, observable_members="independent", runs=np.repeat(np.arange(10), 400))
    assert runs.std_sampling == pytest.approx(plain.std_sampling, rel=0.7)


@pytest.mark.parametrize("kind", ["paired", "independent"])
def test_vectors_of_members(kind):
    x, h = draw(5)
    a = x[:, :4, None] * [1.0, -2.0, 0.5]
    result = run(a, h, observable_members=kind)
    assert result.mean.shape == (3,)
    for k in range(3):
        one = run(a[:, :, k], h, observable_members=kind)
        assert result.mean[k] == pytest.approx(one.mean, rel=1e-9)
        assert result.std_model_naive[k] == pytest.approx(one.std_model_naive, rel=1e-9)
        np.testing.assert_allclose(result.member_means[..., k], one.member_means, rtol=1e-9)


def test_sampling_error_of_paired_members_is_the_spread_of_repeated_runs():
    means, errors = [], []
    for seed in range(120):
        x, h = draw(seed, n=600)
        result = run(x[:, :1] + 0.3 * x[:, 1:5], h, observable_members="paired")
        means.append(result.mean)
        errors.append(result.std_sampling)
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.25)


# ---------------------------------------------------------------------------------------------------------------------
# Functions of averages
# ---------------------------------------------------------------------------------------------------------------------


def test_a_heat_capacity_is_expanded_from_centred_moments():
    """300 springs, 10 % stiffer: 150 exactly becomes 124.0; centred moments give 120, raw ones -105."""
    rng = np.random.default_rng(6)
    v = rng.gamma(150.0, size=400_000)  # energy of 300 springs, kT
    h = 0.1 * v[:, None] * [[1.0, -1.0]]

    def variance(moments):
        return moments[1] - moments[0] ** 2

    moments = np.stack([v, v**2], axis=1)
    first = run(moments, h, function=variance)
    np.testing.assert_allclose(first.member_means, [120.0, 180.0], rtol=0.02)
    assert first.mean == pytest.approx(v.var(), rel=1e-6)
    raw = variance(run(moments, h).member_means.T)
    assert raw[0] == pytest.approx(-105.0, rel=0.03)
    # Direct weights need no expansion, and at sd(h) = 0.6 they hold.
    h = 0.05 * v[:, None] * [[1.0, -1.0]]
    exact = run(moments, h, function=variance, method="direct")
    np.testing.assert_allclose(exact.member_means, [150 / 1.05**2, 150 / 0.95**2], rtol=0.03)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_constant_added_to_the_energy_changes_no_heat_capacity(offset):
    rng = np.random.default_rng(7)
    v = rng.gamma(50.0, size=20_000)
    h = 0.05 * (v - v.mean())[:, None] * [[1.0, -0.5, -0.5]]
    moved = np.stack([v + offset, (v + offset) ** 2], axis=1)
    result = run(moved, h, function=lambda m: m[1] - m[0] ** 2)
    by_hand = v.var() - np.array([np.cov((v - v.mean()) ** 2, column, ddof=0)[0, 1] for column in h.T])
    np.testing.assert_allclose(result.member_means, by_hand, rtol=1e-5)


def test_a_linear_function_is_carried_exactly_and_a_ratio_to_first_order():
    x, h = draw(8)
    a = x[:, :2] + [10.0, 5.0]
    plain = run(a, h)
    linear = run(a, h, function=lambda m: 3.0 * m[0] - m[1])
    np.testing.assert_allclose(linear.member_means, plain.member_means @ [3.0, -1.0], rtol=1e-7)
    assert linear.std_sampling == pytest.approx(run(a @ [3.0, -1.0], h).std_sampling, rel=0.25)
    ratio = run(a, h, function=lambda m: m[0] / m[1])
    base = a.mean(axis=0)
    shifts = (plain.member_means - base) @ [1 / base[1], -base[0] / base[1] ** 2]
    np.testing.assert_allclose(ratio.member_means, base[0] / base[1] + shifts, rtol=1e-7)
    both = run(a, h, function=lambda m: np.array([m[0] / m[1], m[0]]))
    assert both.mean.shape == (2,)
    assert both.mean[0] == pytest.approx(ratio.mean, rel=1e-12)
    scalar = run(a[:, 0], h, function=np.square)
    assert scalar.mean == pytest.approx(base[0] ** 2, rel=1e-6)


def test_sampling_error_of_a_function_is_the_spread_of_repeated_runs():
    found, errors = [], []
    for seed in range(150):
        x, h = draw(seed, n=500)
        result = run(np.stack([x[:, 0], x[:, 0] ** 2], axis=1), h, function=lambda m: m[1] - m[0] ** 2)
        found.append(result.mean)
        errors.append(result.std_sampling)
    assert np.mean(errors) == pytest.approx(np.std(found, ddof=1), rel=0.2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observable_members": "same"}, "'paired' or 'independent', got 'same'"),
        ({"observable_members": "paired"}, r"shape \(T, 4, ...\) when its members are paired, got \(T, 3\)"),
        ({"observable_members": "independent", "method": "gap"}, "does not go with method 'gap'"),
        ({"function": lambda m: np.log(-np.abs(m[0]))}, "`function` must be finite at the averages"),
        ({"method": "gap"}, "a histogram for method 'gap'"),
    ],
)
def test_bad_input(change, words):
    x, h = draw(9, n=40)
    with pytest.raises(InputError, match=words):
        run(x[:, :3], h, **change)
