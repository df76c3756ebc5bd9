"""Which values a calibration is fitted on, and what is taken out of them."""

import numpy as np
import pytest

from ase_uq.errors import InputError
from ase_uq.validation.inputs import calibration_inputs
from ase_uq.validation.sample import Sample


def sample(members, *, reference=None, **changes):
    reference = np.zeros(members.shape[1]) if reference is None else reference
    arguments = {"noise": None, "compositions": None, "groups": None, "resolution": None, "values": "structures"}
    return Sample.of(*calibration_inputs(reference, None, None, members, None), **(arguments | changes))


@pytest.fixture
def members():
    return np.random.default_rng(0).normal(size=(5, 24))


def test_constants_of_a_composition_change_nothing_but_what_is_raw(members):
    compositions = ["H2O"] * 12 + ["H2"] * 12
    constants = np.repeat([[30.0, -7.0]], 12, axis=0).T.ravel()
    plain = sample(members, compositions=compositions)
    moved = sample(members + constants * np.arange(5)[:, None], reference=5.0 * constants, compositions=compositions)
    assert moved.centred == "composition"
    for name in ("error", "spread", "deviations", "weights"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), atol=1e-10)
    assert moved.raw.spread.min() > 5.0 > plain.raw.spread.max()


def test_values_without_a_spread_are_left_out_of_everything(members):
    members[:, [3, 20]] = 1.5
    found = sample(members, noise=np.ones(24), groups=list("ab" * 12))
    assert np.flatnonzero(~found.used).tolist() == [3, 20]
    assert found.deviations.shape == (5, 22)
    assert {len(x) for x in (found.error, found.spread, found.weights, found.noise, found.labels)} == {22}
    assert sample(members).noise is None


def test_too_few_values_with_a_spread_are_refused(members):
    members[:, 9:] = 0.0
    with pytest.raises(InputError, match=r"`std` must be above zero in at least 10 structures .* got 9 of 24"):
        sample(members)
