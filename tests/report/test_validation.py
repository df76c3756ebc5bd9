import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from ase_uq.errors import InputError
from ase_uq.report.style import write_figure
from ase_uq.report.validation import binned_errors, validation_figure

LEVELS = np.linspace(0.05, 0.95, 19)


def points(n=400, seed=0):
    rng = np.random.default_rng(seed)
    std = 10 ** rng.normal(-2, 0.3, n)
    return {"error": std * rng.normal(size=n), "std": std}


def labels(figure):
    texts = []
    for ax in figure.axes:
        texts += [ax.get_title(loc="left"), ax.get_xlabel(), ax.get_ylabel()]
    return texts


def evaluation(**changes):
    energy, force = points(), points(5000, seed=1)
    arguments = {
        "energy_error": energy["error"],
        "energy_std": energy["std"],
        "force_error": force["error"],
        "force_std": force["std"],
        "coverage": {"energy": (LEVELS, LEVELS**0.8), "forces": (LEVELS, LEVELS**1.3)},
    }
    return validation_figure(**(arguments | changes))


def test_bins_are_sorted_by_spread_and_keep_the_mean_square():
    p = points(1000)
    bins = binned_errors(**p)
    assert np.all(np.diff(bins.std) > 0)
    assert np.mean(bins.error**2) == pytest.approx(np.mean(p["error"] ** 2), rel=1e-12)
    assert np.mean(bins.std**2) == pytest.approx(np.mean(p["std"] ** 2), rel=1e-12)


def test_bins_of_a_calibrated_model_lie_on_the_diagonal():
    bins = binned_errors(**points(200_000))
    # The standard error of a standard deviation from 20 000 Gaussian numbers is 0.5 %.
    np.testing.assert_allclose(bins.error / bins.std, 1.0, atol=0.025)


def test_fewer_points_than_bins_give_a_bin_each():
    bins = binned_errors(error=[3.0, -2.0], std=[2.0, 1.0])
    assert (bins.std.tolist(), bins.error.tolist()) == ([1.0, 2.0], [2.0, 3.0])


def test_every_axis_of_the_evaluation_has_its_unit():
    figure = evaluation()
    xy = [(ax.get_xlabel(), ax.get_ylabel()) for ax in figure.axes]
    assert all(label.endswith(")") for pair in xy for label in pair)
    assert [x.split("(")[1] for x, _ in xy] == ["meV/atom)", "meV/Å)", "fraction)"]


def test_both_axes_of_a_scatter_are_logarithmic_however_many_points_there_are():
    for ax in evaluation().axes[:2]:
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        # The diagonal goes from corner to corner.
        assert ax.get_xlim() == ax.get_ylim()


def test_a_quantity_without_uncertainty_has_no_panel():
    figure = evaluation(energy_std=None, coverage={"forces": (LEVELS, LEVELS)})
    assert len(figure.axes) == 2
    assert not any("energy" in label for label in labels(figure))
    with pytest.raises(InputError, match="must not all be missing"):
        evaluation(energy_std=None, force_std=None, coverage={})


def test_the_reliability_curve_is_what_was_given():
    figure = evaluation(coverage={"energy": (LEVELS, LEVELS**2)})
    curve = next(line for line in figure.axes[-1].lines if line.get_label() == "energy")
    np.testing.assert_array_equal(curve.get_xydata(), np.column_stack([LEVELS, LEVELS**2]))


def test_points_without_a_logarithm_do_not_break_the_figure(tmp_path):
    figure = evaluation(energy_error=[0.0, 0.0], energy_std=[0.0, 1.0])
    write_figure(figure, tmp_path / "zero.png")
    assert "no error and spread above zero" in [t.get_text() for t in figure.axes[0].texts]


def test_arrays_of_different_length_are_refused():
    with pytest.raises(InputError, match="same length"):
        evaluation(energy_error=[1.0, 2.0], energy_std=[1.0])


def test_a_png_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "evaluation.png"
    write_figure(evaluation(), target)
    assert target.read_bytes().startswith(b"\x89PNG")
    broken = Figure()
    broken.add_subplot().set_title("$\\nothing$")
    with pytest.raises(ValueError, match="nothing"):
        write_figure(broken, tmp_path / "broken.png")
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.png"]
    with pytest.raises(InputError, match="folder"):
        write_figure(Figure(), tmp_path / "nowhere" / "figure.png")


def test_figures_leave_the_state_of_matplotlib_alone():
    before = dict(mpl.rcParams)
    evaluation()
    assert dict(mpl.rcParams) == before
    code = "import sys, ase_uq.report; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
