"""Figures of vectors: what is not known of an error is never drawn as if there were none."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from ase_uq.observables import Axis, RadialDistribution
from ase_uq.report.bands import Bands, draw_bands, edges_of, stretches
from ase_uq.report.profile import bands_of, profile_figure
from ase_uq.report.style import MODEL, SAMPLING
from ase_uq.reweighting import reweight
from ase_uq.reweighting.free_energy import free_energy_profile
from tests.made.figures import check_texts

KELVIN = 300.0


def vector(n_frames=400, n_bins=12, *, pull=0.004, seed=0):
    """Bins of which the first half follow what the members disagree on, and the others are noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n_frames)
    values = rng.normal(size=(n_frames, n_bins)) + 2.0
    values[:, : n_bins // 2] += 3.0 * x[:, None]
    members = pull * x[:, None] * np.array([-1.0, -0.4, 0.3, 1.1])
    return reweight(values, energy_members=members, energy_reference=np.zeros(n_frames), temperature_K=KELVIN)


def fills(ax, *, hatched):
    return [c for c in ax.collections if bool(c.get_hatch()) == hatched]


def reach(collections, x):
    """Largest half width of fills at a position, over those that cover it."""
    sizes = [0.0]
    for collection in collections:
        for path in collection.get_paths():
            v = path.vertices
            if v[:, 0].min() < x < v[:, 0].max():
                sizes.append(np.abs(np.interp(x, *v[: len(v) // 2].T)))
                sizes.append(np.abs(v[np.abs(v[:, 0] - x).argmin(), 1]))
    return max(sizes)


def test_unresolved_bins_are_drawn_hatched_to_their_upper_bound():
    result, axis = vector(), Axis(np.arange(12.0) + 0.5, "s", "Å")
    bands = bands_of(result)
    assert not bands.bound[:6].any()
    assert bands.bound[6:].sum() >= 4
    np.testing.assert_allclose(bands.model[bands.bound], result.std_model_naive[bands.bound], rtol=1e-12)
    np.testing.assert_array_equal(bands.model[~bands.bound], result.std_model[~bands.bound])
    errors = profile_figure(result, axis, name="p", unit="").axes[1]
    for k, x in enumerate(axis.centres):
        x += 0.03 if k == 0 else -0.03  # fills meet at the middles
        assert (reach(fills(errors, hatched=True), x) > 0) == bands.bound[k]
        if bands.bound[k]:
            assert reach(fills(errors, hatched=True), x) > 0.5 * result.std_model_naive[k]


def test_the_legend_names_what_is_there_and_nothing_else():
    result, axis = vector(), Axis(np.arange(12.0), "s", "Å")
    half = replace(result, std_sampling=np.where(np.arange(12) < 3, np.nan, result.std_sampling))
    alike = replace(result, noise=np.zeros(12))
    texts = {}
    for name, one in (("some", result), ("unknown", half), ("all", alike)):
        legend = profile_figure(one, axis, name="p", unit="eV").axes[0].get_legend()
        texts[name] = [text.get_text() for text in legend.get_texts()]
    assert texts["some"] == ["average", "± sampling error", "± model error", "± model error, upper bound"]
    assert texts["unknown"] == [*texts["some"], "no error bar"]
    assert texts["all"] == texts["some"][:3]


def test_axes_carry_names_and_units():
    rdf = RadialDistribution("O", "H", r_max=6.0, n_bins=12)
    top, bottom = profile_figure(vector(), rdf.axis, name="O-H", unit=rdf.unit).axes
    assert (top.get_ylabel(), bottom.get_ylabel(), bottom.get_xlabel()) == ("g(r)", "error of g(r)", "r (Å)")
    top, bottom = profile_figure(
        vector(), Axis(np.arange(12.0), "distance", "Å"), name="Free energy", unit="eV", symbol="F"
    ).axes
    assert (top.get_ylabel(), bottom.get_ylabel(), bottom.get_xlabel()) == ("F (eV)", "error of F (eV)", "distance (Å)")
    top, bottom = profile_figure(vector(), Axis(np.arange(12.0), "angle", "°"), name="H-O-H", unit="1/°").axes
    assert (top.get_ylabel(), bottom.get_ylabel(), bottom.get_xlabel()) == ("H-O-H (1/°)", "error (1/°)", "angle (°)")


@pytest.mark.parametrize("name", ["g", "histogram:distance:0,1,0.8,1.4,40", "$" * 24])
@pytest.mark.parametrize("symbol", ["", "F"])
def test_no_text_leaves_the_figure_or_lies_on_another(name, symbol):
    result = vector(seed=3)
    unknown = replace(result, std_sampling=np.where(np.arange(12) < 2, np.nan, result.std_sampling))
    figure = profile_figure(unknown, Axis(np.arange(12.0) * 1e-3, "distance", "Å"), name=name, unit="eV", symbol=symbol)
    check_texts(figure)


def test_bins_that_were_never_visited_leave_a_gap_and_single_visits_no_bar():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(0, 1, 300), [1.55], rng.uniform(2, 3, 300)])
    centres, free = free_energy_profile(
        x,
        bins=np.linspace(0, 3, 31),
        energy_members=0.01 * x[:, None] * np.array([-1.0, 0.1, 0.9]),
        energy_reference=np.zeros(len(x)),
        temperature_K=KELVIN,
    )
    assert len(centres) == 21
    top, errors = profile_figure(free, Axis(centres, "s", "Å"), name="F", unit="eV").axes
    for ax in (top, errors):
        for line in [line for line in ax.lines if len(line.get_xdata()) > 2]:
            assert not (line.get_xdata()[0] < 1.2 and line.get_xdata()[-1] > 1.8)
        assert reach(ax.collections, 1.55) == 0
    hollow = next(line for line in top.lines if line.get_marker() == "o")
    assert hollow.get_xdata().tolist() == pytest.approx([1.55])


@given(
    widths=st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=12)
)
def test_fills_cover_both_bands_and_never_each_other(widths):
    sampling, model, bound, known = (np.array(column) for column in zip(*widths, strict=True))
    sampling = np.where(known, sampling, np.nan)
    x, ax = np.arange(float(len(widths))), Figure().add_subplot()
    draw_bands(ax, x, np.zeros(len(x)), Bands(sampling, model, bound))
    area = sum(abs(_area(path.vertices)) for c in ax.collections for path in c.get_paths())
    fine = np.linspace(-0.5, len(x) - 0.5, 4001)
    expected = 0.0
    for stretch in stretches(x, known):
        own, edges = x[stretch], edges_of(x, stretch)
        inside = (fine >= edges[0]) & (fine <= edges[-1])
        wider = np.maximum(*(np.interp(fine, own, band[stretch]) for band in (sampling, model)))
        expected += 2 * np.where(inside, wider, 0.0).sum() * (fine[1] - fine[0])
    assert area == pytest.approx(expected, rel=0.01, abs=0.02)
    colours = {to_rgba(c, 1.0) for c in (SAMPLING, MODEL)}
    for c in ax.collections:
        assert c.get_hatch() or to_rgba(c.get_facecolor()[0][:3], 1.0) in colours


def _area(v):
    return 0.5 * np.sum(v[:-1, 0] * v[1:, 1] - v[1:, 0] * v[:-1, 1])


def test_positions_without_even_spacing_have_no_gaps():
    x = np.array([0.0, 1.0, 2.5, 9.0])
    assert stretches(x, np.full(4, True)) == [slice(0, 4)]
    assert stretches(np.array([0.0, 1.0, 3.0, 4.0]), np.full(4, True)) == [slice(0, 2), slice(2, 4)]
    assert stretches(x, np.array([True, False, True, True])) == [slice(0, 1), slice(2, 4)]
