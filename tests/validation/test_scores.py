"""Scores: closed forms for calibrated and over-confident errors, SciPy's ranks, and what cannot be given."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm, spearmanr, t

from ase_uq.errors import InputError
from ase_uq.validation.predictive import Predictive, crps
from ase_uq.validation.reliability import miscalibration_area, reliability_curve
from ase_uq.validation.scores import (
    energy_scores,
    force_scores,
    spearman,
)

N = 20_001
UNIT = np.ones(N)
# Evenly spaced quantiles have the distribution's own coverage, without sampling noise.
LEVELS = (np.arange(N) + 0.5) / N
GAUSSIAN = norm.ppf(LEVELS)
numbers = st.floats(-1e3, 1e3)


def energies(error, **options):
    return energy_scores(error=error, n_atoms=np.ones(len(error)), **options)


def test_calibrated_gaussian_errors():
    sigma = 0.3
    scores = energies(sigma * GAUSSIAN, var_epistemic=sigma**2 * UNIT)
    assert scores.coverage_68 == pytest.approx(0.6827, abs=1e-4)
    assert scores.coverage_95 == pytest.approx(0.95, abs=1e-4)
    assert scores.miscalibration_area == pytest.approx(0.0, abs=1e-4)
    assert scores.nll == pytest.approx(0.5 * math.log(2.0 * math.pi * math.e * sigma**2), abs=1e-3)
    assert scores.rmse == pytest.approx(sigma, rel=1e-3)
    assert scores.mae == pytest.approx(sigma * math.sqrt(2.0 / math.pi), rel=1e-3)


@pytest.mark.parametrize("factor", [0.5, 2.0, 5.0])
def test_errors_larger_or_smaller_than_predicted(factor):
    scores = energies(factor * GAUSSIAN, var_epistemic=UNIT)

    def observed(p):
        return 2.0 * norm.cdf(norm.ppf(0.5 * (1.0 + p)) / factor) - 1.0

    area, _ = quad(lambda p: abs(observed(p) - p), 0.0, 1.0)
    assert scores.coverage_68 == pytest.approx(2.0 * norm.cdf(1.0 / factor) - 1.0, abs=1e-4)
    assert scores.coverage_95 == pytest.approx(observed(0.95), abs=1e-4)
    assert scores.miscalibration_area == pytest.approx(area, abs=1e-4)
    assert scores.nll == pytest.approx(0.5 * math.log(2.0 * math.pi) + 0.5 * factor**2, rel=1e-3)


def test_overconfident_by_two_has_the_known_coverage():
    scores = energies(2.0 * GAUSSIAN, var_epistemic=UNIT)
    assert (scores.coverage_68, scores.coverage_95) == pytest.approx((0.3829, 0.6729), abs=2e-4)


@pytest.mark.parametrize(("n_members", "alpha"), [(2, 1.0), (4, 1.0), (4, 2.5), (16, 0.5)])
def test_intervals_of_a_committee_are_student_t_with_the_share_of_the_mean(n_members, alpha):
    s = 0.2
    error = math.sqrt(alpha**2 + 1.0 / n_members) * s * t.ppf(LEVELS, df=n_members - 1)
    scores = energies(error, var_epistemic=(alpha * s) ** 2 * UNIT, alpha=alpha, n_members=n_members)
    assert scores.coverage_68 == pytest.approx(0.6827, abs=1e-4)
    assert scores.coverage_95 == pytest.approx(0.95, abs=1e-4)
    assert scores.miscalibration_area < 1e-4


def test_a_simulated_committee_is_covered_and_would_not_be_without_the_corrections():
    rng = np.random.default_rng(0)
    members = rng.normal(size=(4, 40_000))
    error = members.mean(axis=0) - rng.normal(size=40_000)
    variance = members.var(axis=0, ddof=1)
    scores = energies(error, var_epistemic=variance, n_members=4)
    assert scores.coverage_68 == pytest.approx(0.6827, abs=0.01)
    assert scores.coverage_95 == pytest.approx(0.95, abs=0.005)
    assert energies(error, var_epistemic=variance).coverage_95 < 0.88


def test_nll_is_of_what_users_read_as_one_sigma_of_the_total_energy():
    error, variance, noise = np.array([0.3, -0.1]), np.array([0.04, 0.01]), np.array([0.02, 0.0])
    scores = energy_scores(
        error=error, n_atoms=[10, 20], var_epistemic=variance, var_aleatoric=noise, alpha=2.0, n_members=4
    )
    assert scores.nll == pytest.approx(-norm.logpdf(error, scale=np.sqrt(variance + noise)).mean(), rel=1e-12)
    predictive = np.sqrt((1.0 + 1.0 / 16.0) * variance + noise)
    assert scores.nll_interval == pytest.approx(-t.logpdf(error, df=3, scale=predictive).mean(), rel=1e-12)
    assert scores.crps == pytest.approx((crps(error, predictive, dof=3.0) / [10, 20]).mean())
    assert scores.sigma == pytest.approx(math.sqrt((0.06 / 100 + 0.01 / 400) / 2.0))
    assert scores.mae == pytest.approx((0.03 + 0.005) / 2.0)
    assert scores.rmse == pytest.approx(math.sqrt((0.03**2 + 0.005**2) / 2.0))


def test_predictive_scale_is_the_contract():
    s, alpha = 0.3, 1.5
    law = Predictive.of(var_epistemic=(alpha * s) ** 2, var_aleatoric=0.04, alpha=alpha, mean_share=0.2)
    assert law.scale == pytest.approx(math.sqrt((alpha**2 + 0.2) * s**2 + 0.04))
    assert Predictive.of(var_epistemic=0.09).scale == pytest.approx(0.3)


def test_noise_alone_has_normal_intervals_even_with_members_named():
    scores = energies(GAUSSIAN, var_aleatoric=UNIT, n_members=4)
    assert scores.coverage_95 == pytest.approx(0.95, abs=1e-4)


def test_ranks_use_the_reported_variance():
    # With the 1/M share the first two would change places.
    error, epistemic, noise = [1.0, 2.0, 3.0], [1.0, 0.0, 4.0], [0.0, 1.1, 0.0]
    scores = energies(np.array(error), var_epistemic=epistemic, var_aleatoric=noise, n_members=4)
    assert scores.spearman == pytest.approx(1.0)


def test_forces_are_scored_per_component_and_ranked_per_atom():
    rng = np.random.default_rng(1)
    variance = rng.uniform(0.1, 2.0, size=(500, 3))
    error = np.sqrt(variance) * rng.normal(size=(500, 3))
    scores = force_scores(error=error, var_epistemic=variance)
    assert scores.n == 500
    assert scores.rmse == pytest.approx(np.sqrt((error**2).mean()))
    assert scores.mae == pytest.approx(np.abs(error).mean())
    assert scores.nll == pytest.approx(-norm.logpdf(error, scale=np.sqrt(variance)).mean())
    ranks = spearmanr(np.linalg.norm(error, axis=1), np.sqrt(variance.sum(axis=1)))
    assert scores.spearman == pytest.approx(ranks.statistic)
    assert scores.coverage_68 == pytest.approx((np.abs(error) <= np.sqrt(variance)).mean())


def test_a_rotation_of_the_label_axes_leaves_the_rank_of_forces():
    rng = np.random.default_rng(2)
    error = rng.normal(size=(40, 3))
    variance = np.repeat(rng.uniform(size=(40, 1)), 3, axis=1)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turned = force_scores(error=error @ rotation, var_epistemic=variance)
    assert turned.spearman == pytest.approx(force_scores(error=error, var_epistemic=variance).spearman)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=30))
def test_spearman_is_that_of_scipy_with_ties(pairs):
    x, y = np.array(pairs, dtype=float).T
    value = spearman(x, y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert value is None
    else:
        assert value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


@given(st.lists(st.tuples(numbers, numbers), min_size=3, max_size=30))
def test_spearman_does_not_see_monotonic_maps(pairs):
    x, y = np.array(pairs).T
    value = spearman(x, y)
    assert spearman(np.sort(np.unique(x)).searchsorted(x), -y) == (None if value is None else pytest.approx(-value))


def test_pooling_kinds_of_structures_inflates_the_rank_correlation():
    rng = np.random.default_rng(3)
    size = np.repeat([1.0, 10.0], 400)
    error = size * rng.normal(size=800)
    std = size * rng.uniform(0.8, 1.2, size=800)
    kinds = {"composition": ["H2"] * 400 + ["H20"] * 400, "config_type": [7] * 800}
    scores = energies(error, var_epistemic=std**2, groups=kinds)
    assert scores.spearman > 0.5
    assert [(rank.group, rank.n) for rank in scores.within] == [
        ("composition=H2", 400),
        ("composition=H20", 400),
        ("config_type=7", 800),
    ]
    assert all(abs(rank.spearman) < 0.15 for rank in scores.within[:2])
    assert scores.within[2].spearman == scores.spearman


def test_a_group_that_is_too_small_has_no_rank():
    scores = energies(np.arange(1.0, 6.0), var_epistemic=np.arange(1.0, 6.0), groups={"kind": list("aaabb")})
    assert [rank.spearman for rank in scores.within] == [pytest.approx(1.0), None]


def test_without_any_variance_only_errors_are_given():
    scores = energies(GAUSSIAN)
    content = scores.to_dict()
    assert content["rmse"] == pytest.approx(1.0, abs=1e-3)
    for name in ("nll", "coverage_68", "coverage_95", "miscalibration_area", "spearman"):
        assert content[name] is None
    assert scores.reliability is None


def test_json_has_the_keys_of_the_contract():
    content = energies(GAUSSIAN[:50], var_epistemic=UNIT[:50], groups={"kind": ["a"] * 50}).to_dict()
    again = json.loads(json.dumps(content, allow_nan=False))
    contract = {"mae", "rmse", "nll", "coverage_68", "coverage_95", "miscalibration_area", "spearman"}
    contract |= {"crps", "within_1_sigma", "within_1.96_sigma"}
    assert contract <= set(again)
    # A constant spread ranks nothing.
    assert again["within"]["kind=a"]["spearman"] is None
    assert again["within"]["kind=a"]["coverage_95"] == again["coverage_95"]


def test_an_error_without_any_spread_is_outside_every_interval():
    scores = energies(np.array([1.0, 2.0, 0.5]), var_epistemic=np.zeros(3), n_members=4)
    assert (scores.coverage_68, scores.coverage_95, scores.nll, scores.spearman) == (0.0, 0.0, None, None)
    assert scores.miscalibration_area == 0.5


def test_components_that_are_zero_by_symmetry_do_not_decide_the_likelihood():
    rng = np.random.default_rng(4)
    error, variance = rng.normal(size=(30, 3)), np.ones((30, 3))
    whole = force_scores(error=error, var_epistemic=variance)
    exact = np.full((5, 3), 1e-12), np.full((5, 3), 1e-30)
    more = force_scores(error=np.vstack([error, exact[0]]), var_epistemic=np.vstack([variance, exact[1]]))
    assert (whole.n_left_out, more.n_left_out) == (0, 15)
    assert more.nll == pytest.approx(whole.nll)


def test_one_sigma_of_four_members_holds_what_is_known_and_intervals_hold_what_they_say():
    s = 0.2
    error = math.sqrt(1.0 + 0.25) * s * t.ppf(LEVELS, df=3)
    scores = energies(error, var_epistemic=s**2 * UNIT, n_members=4)
    assert scores.within_1_sigma == pytest.approx(1.0 - 2.0 * t.sf(1.0 / math.sqrt(1.25), df=3), abs=1e-4)
    assert scores.within_1_sigma == pytest.approx(0.56, abs=0.01)
    assert scores.coverage_68 == pytest.approx(0.6827, abs=1e-4)
    pinned = energies(s * GAUSSIAN, var_epistemic=s**2 * UNIT, n_members=4, mean_share=0.0, dof=np.inf)
    assert pinned.within_1_sigma == pytest.approx(0.6827, abs=1e-4)
    assert pinned.coverage_95 == pytest.approx(0.95, abs=1e-4)


@pytest.mark.parametrize("dof", [2.0, 3.0, 7.5, math.inf])
@pytest.mark.parametrize("z", [-2.5, 0.0, 0.4, 30.0])
def test_crps_is_the_integral_of_its_definition(dof, z):
    law = norm if math.isinf(dof) else t(df=dof)
    below, _ = quad(lambda x: law.cdf(x) ** 2, -np.inf, z)
    above, _ = quad(lambda x: law.sf(x) ** 2, z, np.inf)
    found = crps(np.array([3.0 * z]), np.array([3.0]), dof=dof)[0]
    assert found == pytest.approx(3.0 * (below + above), rel=1e-6)
    assert crps(np.array([z]), np.array([0.0]), dof=dof)[0] == abs(z)


def test_two_members_have_no_crps():
    assert energies(GAUSSIAN, var_epistemic=UNIT, n_members=2).crps is None


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_area_is_the_integral_of_the_curve(levels):
    expected, observed = reliability_curve(levels, n_points=200_001)
    area = miscalibration_area(levels)
    assert area == pytest.approx(np.abs(observed - expected).mean(), abs=2e-4)
    assert 0.0 <= area <= 0.5 + 1e-12


def test_curve_counts_points_inside_each_interval():
    error, scale = np.array([0.1, -1.0, 2.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    expected, observed = reliability_curve(Predictive(scale, 4.0).confidence(error), n_points=11)
    half_width = t.ppf(0.5 * (1.0 + expected), df=4)
    inside = np.abs(error[:3]) <= half_width[:, None] * scale[:3]
    assert observed == pytest.approx((inside.sum(axis=1) + 1) / 4)


def test_scores_keep_the_curve_for_the_plot():
    expected, observed = energies(GAUSSIAN, var_epistemic=UNIT).reliability
    assert observed == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"error": [0.1, np.nan]}, r"`error` must be finite, got nan at index \(1,\)"),
        ({"error": []}, "`error` must have at least one value"),
        ({"n_atoms": [1]}, r"`n_atoms` must have the shape \(2,\)"),
        ({"n_atoms": [1, 0]}, "at least 1"),
        ({"var_epistemic": [1.0]}, r"`var_epistemic` must have the shape \(2,\)"),
        ({"var_epistemic": [1.0, -1.0]}, "`var_epistemic` must not be negative, got -1.0"),
        ({"var_aleatoric": [1.0, np.inf]}, r"`var_aleatoric` must be finite, got inf at index \(1,\)"),
        ({"n_members": 1}, "`n_members` must be at least 2, got 1"),
        ({"alpha": 0.0}, "`alpha` must be a positive number, got 0.0"),
        ({"groups": {"kind": ["a"]}}, "must have one label per point, got 1 for 2"),
    ],
)
def test_bad_input_is_refused(change, message):
    options = {"error": [0.1, 0.2], "n_atoms": [1, 1], "var_epistemic": [1.0, 1.0], "n_members": 4}
    with pytest.raises(InputError, match=message):
        energy_scores(**{**options, **change})


def test_forces_of_another_shape_are_refused():
    with pytest.raises(InputError, match=r"`error` must have the shape \(N, 3\), got \(4, 2\)"):
        force_scores(error=np.zeros((4, 2)))
