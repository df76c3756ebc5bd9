from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ase_uq.averages.running import RunningAverage
from ase_uq.report.figures import (
    LONGEST_PLAIN_SERIES,
    N_BUCKETS,
    average_figure,
    energy_figure,
    envelope,
    member_figure,
    time_unit,
    uncertainty_figure,
    weight_figure,
)
from tests.made.figures import check_texts

series = arrays(np.float64, st.integers(1, 300), elements=st.floats(-1e6, 1e6) | st.just(np.nan))


def running(n=40, *, sampling=0.2, model=0.5):
    t = np.linspace(100.0, 4000.0, n)
    mean = 10 + np.sin(t / 500)
    s, m = sampling * np.sqrt(4000 / t), np.full(n, model)
    return RunningAverage(time_fs=t, mean=mean, std_sampling=s, std_model=m, std_total=np.hypot(s, m))


@given(y=series, n_buckets=st.integers(1, 60))
def test_an_envelope_contains_every_frame_and_no_more(y, n_buckets):
    reduced = envelope(np.arange(len(y), dtype=float), y, n_buckets=n_buckets)
    assert len(reduced.x) == min(n_buckets, len(y))
    if np.isfinite(y).any():
        assert np.nanmin(reduced.low) == np.nanmin(y)
        assert np.nanmax(reduced.high) == np.nanmax(y)
    known = np.isfinite(reduced.mean)
    slack = 1e-9 * (1 + np.abs(reduced.mean[known]))
    assert np.all(reduced.low[known] <= reduced.mean[known] + slack)
    assert np.all(reduced.mean[known] <= reduced.high[known] + slack)


def test_one_spike_in_a_long_run_is_drawn():
    weight = np.ones(50_000)
    weight[31_234] = 0.07
    ax = weight_figure(time_fs=0.5 * np.arange(50_000.0), weight=weight).axes[0]
    drawn = np.concatenate([path.vertices[:, 1] for c in ax.collections for path in c.get_paths()])
    assert drawn.min() == 0.07
    assert len(ax.lines[0].get_xdata()) == N_BUCKETS


def test_a_short_series_is_drawn_as_it_is():
    y = np.random.default_rng(0).uniform(size=LONGEST_PLAIN_SERIES)
    ax = weight_figure(time_fs=np.arange(float(len(y))), weight=y).axes[0]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), y)


@pytest.mark.parametrize(("length", "unit"), [(0.0, "fs"), (1999.0, "fs"), (2000.0, "ps"), (2e6, "ns")])
def test_time_is_told_in_the_unit_that_fits(length, unit):
    assert time_unit(np.array([0.0, length]))[1] == unit


def test_energies_are_drawn_from_the_first_frame_on():
    t = np.arange(100.0)
    figure = energy_figure(
        time_fs=t, energy=-5e5 + 0.01 * t, kinetic_energy=1 - 0.01 * t, temperature_K=300 + t, target_K=300.0
    )
    total, potential = figure.axes[0].lines
    np.testing.assert_allclose(potential.get_ydata(), 0.01 * t, atol=1e-9)
    np.testing.assert_allclose(total.get_ydata(), 0.0, atol=1e-9)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Energy since the first frame (eV)", "Temperature (K)"]
    assert figure.axes[1].get_xlabel() == "Time (fs)"


def test_small_spreads_are_told_in_thousandths():
    t, small = np.arange(50.0), np.full(50, 0.004)
    figure = uncertainty_figure(time_fs=t, energy_std=small, force_std_max=10 * small + 1, force_std_mean=small)
    first, second = (ax.get_title(loc="left") for ax in figure.axes)
    assert first.endswith("(meV)")
    assert second.endswith("(eV/Å)")
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 4.0)


def test_a_quantity_that_was_not_logged_has_no_panel():
    t, small = np.arange(50.0), np.full(50, 0.004)
    assert len(uncertainty_figure(time_fs=t, energy_std=small, force_std_max=None, force_std_mean=None).axes) == 1
    only_forces = uncertainty_figure(time_fs=t, energy_std=None, force_std_max=small, force_std_mean=small)
    assert "force" in only_forces.axes[0].get_title(loc="left")


def test_spreads_over_many_decades_get_a_logarithmic_axis():
    t = np.arange(100.0)
    std = np.where(t == 50, 10.0, 0.01)
    spiked = uncertainty_figure(time_fs=t, energy_std=std, force_std_max=None, force_std_mean=None)
    calm = uncertainty_figure(time_fs=t, energy_std=0.01 + 0 * t, force_std_max=None, force_std_mean=None)
    assert (spiked.axes[0].get_yscale(), calm.axes[0].get_yscale()) == ("log", "linear")


@pytest.mark.parametrize("sampling", [0.01, 0.45, 5.0])
def test_both_bands_are_drawn_whichever_is_wider(sampling):
    r = running(sampling=sampling)
    figure = average_figure(time_fs=r.time_fs, values=r.mean, running=r, name="a", unit="K")
    lines = {line.get_label(): line for line in figure.axes[1].lines}
    for label, bar in (("± sampling error", r.std_sampling), ("± model error", r.std_model)):
        x, y = lines[label].get_data()
        np.testing.assert_allclose(np.interp(r.time_fs / 1000, x, y), r.mean + bar, rtol=1e-9)


def test_the_final_value_carries_three_bars_on_the_scale_of_the_running_average():
    r = running()
    figure = average_figure(time_fs=r.time_fs, values=r.mean, running=r, name="a", unit="")
    _, bottom, final = figure.axes
    assert final.get_ylim() == bottom.get_ylim()
    bars = [np.ptp(c.lines[2][0].get_segments()[0][:, 1]) / 2 for c in final.containers]
    np.testing.assert_allclose(bars, [r.std_sampling[-1], r.std_model[-1], r.std_total[-1]])


def test_a_model_error_that_is_not_resolved_is_drawn_as_the_bound_it_is():
    r = replace(running(), bound=np.arange(40) >= 20)
    _, bottom, final = average_figure(time_fs=r.time_fs, values=r.mean, running=r, name="a", unit="K").axes
    hatched = [path.vertices[:, 0] for c in bottom.collections if c.get_hatch() for path in c.get_paths()]
    middle = 0.5 * (r.time_fs[19] + r.time_fs[20]) / 1000
    assert min(x.min() for x in hatched) == pytest.approx(middle)
    assert max(x.max() for x in hatched) == pytest.approx(r.time_fs[-1] / 1000)
    assert "± model error, upper bound" in [text.get_text() for text in bottom.get_legend().get_texts()]
    assert [t.get_text() for t in final.get_xticklabels()] == ["sampling\n", "model\nat most", "total\nat most"]


def test_an_average_without_any_bar_still_has_a_scale():
    one = np.array([1.5])
    zero = np.zeros(1)
    r = RunningAverage(time_fs=one, mean=one, std_sampling=zero, std_model=zero, std_total=zero)
    low, high = average_figure(time_fs=one, values=one, running=r, name="a", unit="Å").axes[1].get_ylim()
    assert low < 1.5 < high


def test_the_widest_member_is_marked():
    h = np.random.default_rng(0).normal(size=(2000, 3)) * [0.1, 1.4, 0.2]
    shapes, widths = member_figure(h - h.mean(axis=0), names=["1", "2", "3"]).axes
    assert "member 2" in [text.get_text() for text in shapes.get_legend().get_texts()]
    dashed = [line.get_xdata()[0] for line in widths.lines if line.get_linestyle() == "--"]
    assert dashed == [0.5, 1.0]


def test_members_that_agree_exactly_are_said_to_do_so():
    shapes, _ = member_figure(np.zeros((30, 4)), names=["1", "2", "3", "4"]).axes
    assert "the members do not move against V" in [t.get_text() for t in shapes.texts]


@pytest.mark.parametrize("length", [30.0, 1999.0, 2000.0, 7.3e6])
@pytest.mark.parametrize("size", [3e-5, 1.0, 4e5])
def test_no_text_leaves_a_figure_or_lies_on_another(length, size):
    t, rng = np.linspace(0.0, length, 60), np.random.default_rng(0)
    y = size * rng.normal(size=60)
    r = running()
    h = min(size, 1e3) * rng.normal(size=60)[:, None] * np.linspace(0.1, 1, 24)
    spreads = {"energy_std": abs(y), "force_std_max": abs(y), "force_std_mean": abs(y) / 3}
    r = replace(r, time_fs=t[20:], mean=size * r.mean, bound=np.arange(40) > 30)
    for figure in (
        energy_figure(time_fs=t, energy=y, kinetic_energy=abs(y), temperature_K=300 + y, target_K=300.0),
        uncertainty_figure(time_fs=t, **spreads),
        weight_figure(time_fs=t, weight=rng.uniform(size=60)),
        average_figure(time_fs=t, values=y, running=r, name="distance:0,1", unit="Å"),
        member_figure(h, names=[str(i) for i in range(1, 25)]),
    ):
        check_texts(figure)
