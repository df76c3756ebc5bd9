import numpy as np
import pytest
from ase.units import kB

from ase_uq.errors import InputError
from ase_uq.reweighting.free_energy import free_energy_profile

TEMPERATURE = 300.0
KT = kB * TEMPERATURE


def double_well(rng, n=40_000):
    """Two Gaussian wells at -1 and 1, the right one chosen with probability 0.3, and members that tilt them."""
    x = 0.25 * rng.normal(size=n) + np.where(rng.random(n) < 0.3, 1.0, -1.0)
    tilt = np.array([-1.0, -0.3, 0.3, 1.0])
    return x, KT * tilt * x[:, None], tilt


def profile(x, members, **options):
    zero = np.zeros(len(x))
    return free_energy_profile(
        x, energy_members=members, energy_reference=zero, temperature_K=TEMPERATURE, **{"bins": 24, **options}
    )


def test_a_tilt_of_the_potential_is_a_tilt_of_the_free_energy():
    x, members, tilt = double_well(np.random.default_rng(0))
    centres, free = profile(x, members)
    reference = int(np.argmin(free.mean))
    assert free.mean[reference] == 0.0
    assert free.std_total[reference] == 0.0
    for member, slope in zip(free.member_means, tilt, strict=True):
        shift = member - free.mean
        np.testing.assert_allclose(shift, KT * slope * (centres - centres[reference]), atol=0.1 * KT)
    np.testing.assert_allclose(
        free.std_model, KT * tilt.std(ddof=1) * np.abs(centres - centres[reference]), atol=0.05 * KT
    )
    well = np.abs(centres - 1.0).argmin()
    assert free.mean[well] == pytest.approx(KT * np.log(0.7 / 0.3), abs=0.15 * KT)


def test_the_sampling_error_is_the_spread_of_repeated_runs():
    found, errors = [], []
    for seed in range(60):
        x, members, _ = double_well(np.random.default_rng(seed), 3000)
        # One bin is visited most in every run: where that changes, so does what the profile is relative to.
        _, free = profile(x, members, bins=[-1.5, -1.2, -0.8, -0.5, 0.5, 0.8, 1.2, 1.5])
        found.append(free.mean[[0, 2, 3, 4, 5, 6]])
        errors.append(free.std_sampling[[0, 2, 3, 4, 5, 6]])
    ratio = np.mean(errors, axis=0) / np.array(found).std(axis=0, ddof=1)
    np.testing.assert_allclose(ratio, 1.0, atol=0.3)


def test_bins_nobody_visited_are_left_out():
    x, members, _ = double_well(np.random.default_rng(1), 500)
    centres, free = profile(x, members, bins=np.linspace(-3, 3, 61))
    assert len(centres) == len(free.mean) < 60
    assert np.isfinite(free.mean).all()


def test_weights_of_a_biased_run():
    x, members, _ = double_well(np.random.default_rng(2))
    plain = profile(x, members, bins=np.linspace(-1.5, 1.5, 7))[1]
    # The run is taken to be biased by a potential that had raised the left well.
    weighted = profile(x, members, bins=np.linspace(-1.5, 1.5, 7), log_weights=np.where(x < 0, 1.0, 0.0))[1]
    np.testing.assert_allclose(weighted.mean[3:] - plain.mean[3:], KT, atol=0.02 * KT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": np.zeros((30, 2))}, "one finite number a frame"),
        ({"bins": [5.0, 6.0]}, "must hold some of the values"),
    ],
)
def test_bad_input(change, words):
    x, members, _ = double_well(np.random.default_rng(3), 30)
    with pytest.raises(InputError, match=words):
        profile(change.pop("values", x), members, **change)
