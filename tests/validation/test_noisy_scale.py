"""alpha where a model has noise beside its spread, or no members at all: known truths, drawn many times."""

import numpy as np
import pytest

from ase_uq.errors import InputError
from ase_uq.validation.calibration import calibrate
from ase_uq.validation.centring import Centring

ALPHA = 2.0


def drawn(seed, *, n_members, noise, n=400):
    """Members and labels of structures whose widths and noise differ; the truth lies alpha times as far as they do."""
    rng = np.random.default_rng(seed)
    width = np.exp(0.5 * rng.normal(size=n))
    v = noise * ALPHA**2 * np.exp(0.4 * rng.normal(size=n))
    truth = ALPHA * width * rng.normal(size=n) + np.sqrt(v) * rng.normal(size=n)
    if n_members is None:
        return {"reference": truth, "mean": np.zeros(n), "std": width, "dof": np.inf, "mean_share": 0.0, "noise": v}
    return {"reference": truth, "members": width * rng.normal(size=(n_members, n)), "noise": v}


@pytest.mark.parametrize("n_members", [4, 8, None])
@pytest.mark.parametrize("noise", [0.3, 2.0])
def test_alpha_is_what_errors_have_beyond_the_noise(n_members, noise):
    fits = [calibrate(**drawn(seed, n_members=n_members, noise=noise)) for seed in range(40)]
    alphas, errors = (np.array([getattr(fit, name) for fit in fits]) for name in ("alpha", "alpha_std_error"))
    standard = alphas.std(ddof=1) / np.sqrt(len(fits))
    assert alphas.mean() == pytest.approx(ALPHA, abs=max(4.0 * standard, 0.03))
    assert (np.abs(alphas - ALPHA) < 2.0 * errors).mean() > 0.8


@pytest.mark.parametrize("n_members", [4, 8, None])
def test_noise_that_is_left_out_ends_up_in_alpha(n_members):
    given = drawn(0, n_members=n_members, noise=2.0) | {"noise": None}
    assert calibrate(**given).alpha > 1.4 * ALPHA


def test_no_noise_is_none_at_all():
    given = drawn(3, n_members=6, noise=0.0)
    assert calibrate(**given) == calibrate(**given | {"noise": None})


def test_noise_that_explains_everything_is_said():
    given = drawn(1, n_members=6, noise=0.0)
    found = calibrate(**given | {"noise": np.full(400, 100.0)})
    assert any("The noise of the model explains the errors" in warning for warning in found.warnings)
    assert 0.1 * ALPHA < found.alpha < ALPHA


def test_a_width_without_members_has_none_in_the_result():
    found = calibrate(**drawn(2, n_members=None, noise=0.0))
    assert (found.n_members, found.dof, found.mean_share) == (None, None, 0.0)
    assert found.alpha == pytest.approx(ALPHA, abs=2.5 * found.alpha_std_error)


def test_variances_of_what_is_left_without_constants():
    rng = np.random.default_rng(0)
    variances = rng.uniform(0.5, 2.0, size=9)
    centring = Centring.within(["a"] * 5 + ["b"] * 4, fewest=2)
    projection = centring.of(np.eye(9))
    np.testing.assert_allclose(centring.variance_of(variances), (projection**2) @ variances, rtol=1e-12)
    np.testing.assert_allclose(Centring.none(9).variance_of(variances), variances)


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (np.ones(3), r"`noise` must have one variance per structure, \(400,\), got \(3,\)"),
        (np.full(400, -1.0), "`noise` must be finite and not negative, got -1.0"),
        (np.full(400, np.nan), "`noise` must be finite and not negative, got nan"),
    ],
)
def test_bad_noise(noise, words):
    with pytest.raises(InputError, match=words):
        calibrate(**drawn(0, n_members=6, noise=0.0) | {"noise": noise})
