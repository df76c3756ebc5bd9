"""The frames that `reweight` is given, in one form."""

import numpy as np
import pytest

from ase_uq.errors import InputError
from ase_uq.reweighting.frames import Frames

N_FRAMES = 60


def frames(*, temperature_K=300.0, log_weights=None, runs=None):
    rng = np.random.default_rng(3)
    observable, members = rng.normal(size=N_FRAMES), 0.1 * rng.normal(size=(N_FRAMES, 4))
    return Frames.checked(observable, members, rng.normal(size=N_FRAMES), temperature_K, log_weights, runs)


def test_chunks_hold_every_frame_once_and_end_with_the_runs():
    found = frames(runs=np.repeat([0, 1, 2], [10, 30, 20]))
    assert [(part.start, part.stop, ends) for part, ends in found.chunks()] == [
        (0, 10, True),
        (10, 40, True),
        (40, 60, True),
    ]


def test_members_reweigh_within_each_temperature():
    """Less its shift, the weighted mean of h, or of exp(-h), is 0, or 1, at each temperature."""
    temperatures = np.tile([300.0, 400.0], N_FRAMES // 2)
    log_weights = np.linspace(0.0, 1.0, N_FRAMES)
    found = frames(temperature_K=temperatures, log_weights=log_weights)
    assert found.at_several_temperatures
    h, b = found.reduced(slice(None)), np.exp(log_weights)
    for there in (temperatures == 300.0, temperatures == 400.0):
        shares = (b[there] / b[there].sum())[:, None]
        plain = (h - found.shift_by_temperature(weighted=False))[there]
        weighted = (h - found.shift_by_temperature(weighted=True))[there]
        np.testing.assert_allclose((shares * plain).sum(axis=0), 0.0, atol=1e-12)
        np.testing.assert_allclose((shares * np.exp(-weighted)).sum(axis=0), 1.0, rtol=1e-12)


def test_order_moves_all_that_frames_have():
    temperatures, log_weights = np.tile([300.0, 400.0], N_FRAMES // 2), np.arange(float(N_FRAMES))
    found = frames(temperature_K=temperatures, log_weights=log_weights)
    order = np.random.default_rng(1).permutation(N_FRAMES)
    moved = found.in_order(order)
    np.testing.assert_array_equal(moved.log_weights, log_weights[order])
    np.testing.assert_array_equal(moved.reduced(slice(None)), found.reduced(slice(None))[order])


def test_members_may_come_first_where_shapes_tell():
    members = np.zeros((4, N_FRAMES))
    found = Frames.checked(np.ones(N_FRAMES), members, np.zeros(N_FRAMES), 300.0, None, None)
    assert found.members.shape == (N_FRAMES, 4)
    with pytest.raises(InputError, match=r"`energy_members` must have shape \(60, M\)"):
        Frames.checked(np.ones(N_FRAMES), members[:, 1:], np.zeros(N_FRAMES), 300.0, None, None)
