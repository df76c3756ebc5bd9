"""alpha: the published estimators on toys with a known answer, SciPy's own fit, and what is refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from ase_uq.errors import InputError
from ase_uq.validation.calibration import (
    ALPHA_FLOOR,
    Calibration,
    calibrate,
)
from ase_uq.validation.student_t import scale_squared, student_t_scale


def committee(*, n_members, n_structures, alpha, seed, n_repeats=None):
    """Members scatter by one around zero, the reference by alpha: (reference, mean, std)."""
    rng = np.random.default_rng(seed)
    shape = (n_structures,) if n_repeats is None else (n_repeats, n_structures)
    members = rng.normal(size=(n_members, *shape))
    return alpha * rng.normal(size=shape), members.mean(axis=0), members.std(axis=0, ddof=1)


def fit(*, n_members=8, n_structures=200, alpha=2.0, seed=1, scale=1.0, **options):
    """Errors are `scale` times what they are, the spread is not."""
    reference, mean, std = committee(n_members=n_members, n_structures=n_structures, alpha=alpha, seed=seed)
    return calibrate(reference=scale * reference, mean=scale * mean, std=std, n_members=n_members, **options)


# Mean and standard deviation over repeats with 200 structures and alpha = 2.
@pytest.mark.parametrize(
    ("method", "n_members", "mean", "sd"),
    [
        ("moment", 4, 1.93, 0.47),
        ("moment", 5, 1.99, 0.27),
        ("moment", 6, 1.99, 0.18),
        ("moment", 16, 1.99, 0.11),
        ("student_t", 4, 2.00, 0.14),
    ],
)
def test_estimators_scatter_as_published(method, n_members, mean, sd):
    n_repeats = 500
    y, centre, s = committee(n_members=n_members, n_structures=200, alpha=2.0, seed=4, n_repeats=n_repeats)
    z_squared = ((y - centre) / s) ** 2
    alphas = np.array(
        [np.sqrt(scale_squared(row, dof=n_members - 1, method=method) - 1 / n_members) for row in z_squared]
    )
    # The moment at M = 4 and 5 has no finite variance, so that its scatter is a property of the draw.
    loose = method == "moment" and n_members < 6
    assert alphas.mean() == pytest.approx(mean, abs=0.05 if loose else 0.025)
    assert alphas.std(ddof=1) == pytest.approx(sd, rel=0.35 if loose else 0.12)


def test_forgetting_the_share_of_the_mean_would_be_seen():
    z = np.array([1.0, -1.0, 2.0, 0.5] * 5)
    assert scale_squared(z**2, dof=4, method="moment") - 0.2 == pytest.approx(-0.2 + 0.5 * 1.5625)
    s = np.ones(20)
    assert calibrate(reference=z, mean=0 * z, std=s, n_members=5).alpha_moment == pytest.approx(
        np.sqrt(-0.2 + 0.5 * 1.5625)
    )


@pytest.mark.parametrize("dof", [3, 5, 15])
def test_scale_is_the_fit_of_scipy(dof):
    z = 1.7 * t.rvs(df=dof, size=300, random_state=dof)
    _, _, scale = t.fit(z, f0=dof, floc=0.0)
    assert student_t_scale(z**2, dof=dof) == pytest.approx(scale, rel=1e-4)


def test_scale_of_one_magnitude_is_closed_form():
    # All |z| = 1: (dof + 1) / (dof c^2 + 1) = 1 gives c = 1.
    assert student_t_scale(np.ones(7), dof=3) == pytest.approx(1.0, rel=1e-12)


def test_scale_with_many_degrees_of_freedom_is_the_root_mean_square():
    z = np.random.default_rng(3).normal(size=500)
    assert student_t_scale(z**2, dof=10**7) == pytest.approx(np.sqrt((z**2).mean()), rel=1e-5)


@given(
    z=st.lists(st.floats(-1e3, 1e3), min_size=10, max_size=40),
    factor=st.floats(1e-3, 1e3),
    dof=st.integers(3, 30),
)
def test_scale_follows_the_units_and_the_weights(z, factor, dof):
    z_squared = np.square(np.array(z))
    scale = student_t_scale(z_squared, dof=dof)
    assert student_t_scale(factor**2 * z_squared, dof=dof) == pytest.approx(factor * scale, rel=1e-6)
    twice = student_t_scale(np.tile(z_squared, 2), dof=dof)
    assert student_t_scale(z_squared, dof=dof, weights=np.full(len(z), 2.0)) == pytest.approx(twice, rel=1e-9)
    assert twice == pytest.approx(scale, rel=1e-9)


@pytest.mark.parametrize("z_squared", [np.zeros(12), np.array([1.0] + [0.0] * 11)])
def test_mostly_perfect_predictions_have_no_scale(z_squared):
    assert student_t_scale(z_squared, dof=3) == 0.0


def test_alpha_is_recovered_and_the_estimators_agree():
    calibration = fit(n_structures=2000, n_members=8)
    assert calibration.method == "student_t"
    assert calibration.alpha == calibration.alpha_student_t
    assert abs(calibration.alpha - 2.0) < 3.0 * calibration.alpha_std_error
    assert calibration.alpha_moment == pytest.approx(2.0, rel=0.1)
    assert calibration.warnings == ()
    assert fit(n_structures=2000, method="moment").alpha == calibration.alpha_moment


def test_energies_in_other_units_and_with_an_offset_give_the_same_alpha():
    reference, mean, std = committee(n_members=6, n_structures=50, alpha=2.0, seed=8)
    here = calibrate(reference=reference, mean=mean, std=std, n_members=6)
    there = calibrate(reference=27.2 * reference - 1e4, mean=27.2 * mean - 1e4, std=27.2 * std, n_members=6)
    assert there.alpha == pytest.approx(here.alpha, rel=1e-8)


def test_bootstrap_error_is_the_scatter_over_new_sets():
    y, centre, s = committee(n_members=8, n_structures=200, alpha=2.0, seed=5, n_repeats=200)
    scatter = np.std([np.sqrt(scale_squared(row, dof=7) - 1 / 8) for row in ((y - centre) / s) ** 2], ddof=1)
    assert np.mean([fit(seed=k).alpha_std_error for k in range(5)]) == pytest.approx(scatter, rel=0.2)


def test_bootstrap_over_groups_sees_through_repeated_frames():
    reference, mean, std = committee(n_members=8, n_structures=60, alpha=2.0, seed=2)
    repeated = {"reference": np.repeat(reference, 9), "mean": np.repeat(mean, 9), "std": np.repeat(std, 9)}
    once = calibrate(reference=reference, mean=mean, std=std, n_members=8)
    shuffled = np.random.default_rng(0).permutation(540)
    blind = calibrate(**{name: value[shuffled] for name, value in repeated.items()}, n_members=8)
    in_order = calibrate(**repeated, n_members=8)
    grouped = calibrate(**repeated, n_members=8, groups=[f"run {i // 9}" for i in range(540)])
    assert grouped.alpha == pytest.approx(once.alpha, rel=1e-9)
    assert blind.alpha_std_error == pytest.approx(once.alpha_std_error / 3.0, rel=0.2)
    assert grouped.alpha_std_error == pytest.approx(once.alpha_std_error, rel=0.2)
    # Frames in the order of a trajectory show it by themselves.
    assert in_order.alpha_std_error == pytest.approx(once.alpha_std_error, rel=0.4)
    assert any("one trajectory" in text for text in in_order.warnings)


def test_one_group_has_no_error_bar():
    calibration = fit(groups=["run"] * 200)
    assert calibration.alpha_std_error is None
    assert any("one group" in text for text in calibration.warnings)


def test_the_error_bar_belongs_to_the_estimator():
    assert fit() == fit()
    assert fit().alpha_std_error != fit(method="moment").alpha_std_error


def test_members_that_scatter_too_much_are_clamped_with_a_warning():
    calibration = fit(alpha=0.0)
    # Relative to the ratio of errors to spread, 1/sqrt(8), and nothing that is known without an error.
    assert calibration.alpha == pytest.approx(ALPHA_FLOOR / np.sqrt(8.0), rel=0.1)
    assert calibration.alpha_std_error > 0.3 * calibration.alpha
    assert any("floor" in text for text in calibration.warnings)
    scaled = fit(alpha=0.0, scale=1e-3)
    assert scaled.alpha == pytest.approx(1e-3 * calibration.alpha, rel=1e-6)


def test_structures_without_spread_are_masked_and_counted():
    reference, mean, std = committee(n_members=6, n_structures=40, alpha=1.0, seed=3)
    whole = calibrate(reference=reference, mean=mean, std=std, n_members=6)
    reference, mean = np.append(reference, [5.0, 0.0]), np.append(mean, [0.0, 0.0])
    masked = calibrate(reference=reference, mean=mean, std=np.append(std, [0.0, 1e-14]), n_members=6)
    assert (masked.n_masked, masked.n_structures) == (2, 42)
    assert masked.alpha == whole.alpha
    assert any(text.startswith("2 of 42") for text in masked.warnings)


def test_an_offset_of_the_energy_zero_is_told():
    reference, mean, std = committee(n_members=6, n_structures=60, alpha=1.0, seed=6)
    calibration = calibrate(reference=reference + 30.0, mean=mean, std=std, n_members=6)
    assert any("same sign" in text for text in calibration.warnings)


def test_outliers_make_the_estimators_disagree_and_are_told():
    reference, mean, std = committee(n_members=8, n_structures=100, alpha=1.0, seed=7)
    reference[:5] += 40.0
    calibration = calibrate(reference=reference, mean=mean, std=std, n_members=8)
    assert calibration.alpha < 2.0 < calibration.alpha_moment
    assert any("one factor" in text for text in calibration.warnings)


@pytest.mark.parametrize(
    ("options", "told"), [({"n_members": 5, "method": "moment"}, "Student's t"), ({"n_structures": 12}, "± ")]
)
def test_shaky_numbers_are_told(options, told):
    assert any(told in text for text in fit(**options).warnings)


def test_survives_json():
    calibration = fit(alpha=0.0)
    content = json.loads(json.dumps(calibration.to_dict()))
    assert Calibration(**{**content, "warnings": tuple(content["warnings"])}) == calibration


def test_fewer_than_four_members_are_refused():
    with pytest.raises(InputError, match=r"`n_members` must be at least 4.*got 3"):
        fit(n_members=3)


@pytest.mark.parametrize("name", ["reference", "mean", "std"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named(name, value):
    arrays = dict(
        zip(("reference", "mean", "std"), committee(n_members=4, n_structures=20, alpha=1, seed=0), strict=True)
    )
    arrays[name][7] = value
    with pytest.raises(InputError, match=f"`{name}` must be finite, got {value} at index 7"):
        calibrate(**arrays, n_members=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": -np.ones(20)}, "`std` must not be negative, got -1.0 at index 0"),
        ({"std": np.zeros(20)}, "at least 10 structures to calibrate, got 0 of 20"),
        ({"reference": np.ones(19)}, "`reference` must have one value per structure"),
        ({"reference": np.ones((20, 1))}, "`reference` must have one value per structure"),
        ({"groups": ["a"]}, "`groups` must have one label per structure, got 1 for 20"),
        ({"method": "gauss"}, "`method` must be one of student_t, moment, got 'gauss'"),
    ],
)
def test_bad_input_is_refused(change, message):
    arrays = {"reference": np.arange(20.0), "mean": np.zeros(20), "std": np.ones(20)}
    with pytest.raises(InputError, match=message):
        calibrate(**{**arrays, "n_members": 4, **change})


def test_nine_structures_are_too_few():
    with pytest.raises(InputError, match="at least 10 structures to calibrate, got 9 of 9"):
        fit(n_structures=9)


@pytest.mark.parametrize("alpha", [0.05, 0.15, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("exact", [False, True])
def test_members_pinned_to_their_mean_have_alpha_equal_to_the_ratio(alpha, exact):
    rng = np.random.default_rng(3)
    n_members, dof = 6, np.inf if exact else None
    scale = rng.uniform(0.5, 2.0, size=2000)
    members = scale * rng.normal(size=(n_members, 2000))
    members -= members.mean(axis=0)
    if exact:
        members *= scale / members.std(axis=0, ddof=1)
    reference = alpha * scale * rng.normal(size=2000)
    fitted = calibrate(reference=reference, members=members, mean_share=0.0, dof=dof)
    assert fitted.alpha == pytest.approx(alpha, rel=0.05)
    assert abs(fitted.alpha - alpha) < 3.0 * fitted.alpha_std_error
    # Six members with an exact covariance are functions in five directions.
    assert bool(fitted.warnings) == exact
    independent = calibrate(reference=reference, members=members, dof=dof)
    assert independent.alpha**2 == pytest.approx(max(alpha**2 - 1 / 6, (ALPHA_FLOOR * alpha) ** 2), rel=0.15)


@pytest.mark.parametrize(("of_members", "of_labels"), [(0.0, 0.0), (20.0, 0.0), (0.0, 20.0), (20.0, 20.0)])
@pytest.mark.parametrize("n_compositions", [1, 7])
def test_constants_of_a_composition_change_nothing(of_members, of_labels, n_compositions):
    rng = np.random.default_rng(11)
    n_members, n_structures = 5, 350
    labels = rng.integers(n_compositions, size=n_structures)
    fluctuation = rng.normal(size=(n_members, n_structures))
    constants = of_members * rng.normal(size=(n_members, n_compositions))[:, labels]
    error = 2.0 * rng.normal(size=n_structures)
    plain = {"reference": error, "members": fluctuation}
    shifted = {
        "reference": error + of_labels * rng.normal(size=n_compositions)[labels] - 1e5,
        "members": fluctuation + constants,
    }
    compositions = [f"C{label}" for label in labels]
    here, there = (calibrate(**each, compositions=compositions) for each in (plain, shifted))
    assert there.alpha == pytest.approx(here.alpha, rel=1e-6)
    assert there.alpha == pytest.approx(2.0, abs=3.0 * there.alpha_std_error)
    assert there.centred == "composition"
    assert there.alpha_std_error == pytest.approx(here.alpha_std_error, rel=1e-6)
    assert any("differ by constants" in text for text in there.warnings)


def test_compositions_that_never_repeat_are_centred_by_element():
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 40, size=(300, 3))
    assert len(np.unique(counts, axis=0)) > 295
    members = rng.normal(size=(6, 300)) + (rng.normal(size=(6, 3)) * 5.0) @ counts.T
    fitted = calibrate(reference=1.5 * rng.normal(size=300), members=members, compositions=counts)
    assert fitted.centred == "element"
    assert fitted.alpha == pytest.approx(1.5, abs=3.0 * fitted.alpha_std_error)
    assert fitted.alpha_raw < 0.3


def test_members_that_differ_in_two_directions_do_not_pretend_to_know_alpha():
    """Truth and members are draws of a x + b x^2: 400 structures are two numbers."""
    inside = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=400)
        shapes = np.stack([x, x**2 - 1.0])
        members, truth = rng.normal(size=(8, 2)) @ shapes, rng.normal(size=2) @ shapes
        fitted = calibrate(reference=truth, members=members, compositions=["Ar2"] * 400)
        inside.append(abs(fitted.alpha - 1.0) < 2.0 * fitted.alpha_std_error)
        assert fitted.alpha_std_error > 0.3 * fitted.alpha
    assert np.mean(inside) >= 0.9


@pytest.mark.parametrize(("zeros", "noise"), [(0.44, 1e-6), (0.8, 3e-6), (0.1, 0.0)])
def test_zeros_that_symmetry_forces_do_not_decide_alpha(zeros, noise):
    """Members agree there to the precision of the evaluation, labels to their own: their ratio means nothing."""
    rng = np.random.default_rng(1)
    n = 4000
    forced = rng.random(n) < zeros
    s = np.where(forced, noise, 0.05)
    members = rng.normal(size=(4, n)) * s
    reference = np.where(forced, 1e-4, 0.1) * rng.normal(size=n)
    fitted = calibrate(
        reference=reference, mean=members.mean(0), std=members.std(0, ddof=1), n_members=4, values="force components"
    )
    assert fitted.alpha == pytest.approx(2.0, rel=0.15)
    assert fitted.n_masked == forced.sum()


def test_kinds_that_want_different_factors_are_named_with_four_members():
    rng = np.random.default_rng(5)
    kinds = np.repeat(["bulk", "surface"], 100)
    members = rng.normal(size=(4, 200))
    reference = np.where(kinds == "bulk", 1.0, 5.0) * rng.normal(size=200)
    fitted = calibrate(reference=reference, members=members, kinds={"config_type": kinds})
    assert any("config_type" in text and "surface" in text and "bulk" in text for text in fitted.warnings)
    same = calibrate(reference=rng.normal(size=200), members=members, kinds={"config_type": kinds})
    assert same.warnings == ()


def share_of_warned_kinds(*, n_members, names, n_each, repeats_of_a_frame=1, factor=1.0):
    """Share of 60 sets in which the last of the kinds, whose errors are `factor` times as large, is told apart."""
    said = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n = len(names) * n_each
        kinds = rng.permutation(np.repeat(names, n_each))
        members, reference = rng.normal(size=(n_members, n)), rng.normal(size=n)
        reference *= np.where(kinds == names[-1], factor, 1.0)
        of_frame = np.repeat(np.arange(n), repeats_of_a_frame)
        fitted = calibrate(
            reference=reference[of_frame],
            members=members[:, of_frame],
            groups=of_frame,
            kinds={"config_type": kinds[of_frame]},
        )
        said.append(any("want different factors" in text for text in fitted.warnings))
    return np.mean(said)


@pytest.mark.parametrize(("n_members", "factor", "at_least"), [(4, 2.5, 0.85), (8, 2.0, 0.8), (16, 2.0, 0.9)])
def test_kinds_are_told_apart_by_fifty_structures_of_each(n_members, factor, at_least):
    # Intervals of one kind then hold 80, those of the other 55 % of its errors.
    assert share_of_warned_kinds(n_members=n_members, names=["a", "b"], n_each=50, factor=factor) >= at_least


@pytest.mark.parametrize(
    ("n_members", "names", "repeats_of_a_frame"), [(4, ["a", "b"], 1), (8, list("abcdef"), 1), (8, ["a", "b"], 9)]
)
def test_kinds_that_are_alike_are_not_told_apart(n_members, names, repeats_of_a_frame):
    # Components of the forces of one frame are no independent errors.
    said = share_of_warned_kinds(n_members=n_members, names=names, n_each=20, repeats_of_a_frame=repeats_of_a_frame)
    assert said <= 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": None}, "`mean`, `std` and `n_members` must be given"),
        ({"compositions": ["H2O"] * 3}, "`compositions` must have one entry a structure, 20, got 3"),
        ({"members": np.zeros(20)}, r"`members` must have the shape \(M, S\)"),
    ],
)
def test_bad_members_are_refused(change, message):
    members = np.random.default_rng(0).normal(size=(5, 20))
    with pytest.raises(InputError, match=message):
        calibrate(**{"reference": np.arange(20.0), "members": members, **change})
