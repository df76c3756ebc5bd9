"""Learning curves: the file grows with the training, is taken up again, and is drawn."""

import csv

import pytest

from ase_uq.errors import InputError
from ase_uq.report.learning_curve import learning_curve_figure
from ase_uq.report.style import write_figure
from ase_uq.training.fit import EpochRecord
from ase_uq.training.learning_curve import COLUMNS, LearningCurve, read_learning_curve


def record(epoch, size=1.0, stress=None, **terms):
    return EpochRecord(
        epoch=epoch,
        epochs=9,
        train_loss=0.5 * size,
        valid_loss=size,
        energy_rmse=0.01 * size,
        forces_rmse=0.1 * size,
        learning_rate=0.01,
        seconds=2.0 * epoch,
        progress=epoch / 9,
        terms=terms,
        stress_rmse=stress,
    )


def test_the_file_has_a_row_an_epoch_with_units_in_its_names(tmp_path):
    curve = LearningCurve(tmp_path / "m.csv", ["member 0", "member 1"])
    curve.add(0, record(1, 4.0))
    assert read_learning_curve(tmp_path / "m.csv")["member 0"][0]["valid_forces_rmse_eV_per_A"] == 0.4
    curve.add(1, record(1, 3.0, stress=0.002))
    curve.add(0, record(2, 2.0))
    found = read_learning_curve(tmp_path / "m.csv")
    assert found["member 1"][0] == pytest.approx(curve.rows["member 1"][0])
    assert [row["epoch"] for row in found["member 0"]] == [1, 2]
    assert found["member 0"][1] == {
        "epoch": 2,
        "seconds": 4.0,
        "learning_rate": 0.01,
        "train_loss": 1.0,
        "valid_loss": 2.0,
        "valid_energy_rmse_eV_per_atom": 0.02,
        "valid_forces_rmse_eV_per_A": 0.2,
        "valid_stress_rmse_eV_per_A3": None,
    }
    assert found["member 1"][0]["valid_stress_rmse_eV_per_A3"] == 0.002
    with (tmp_path / "m.csv").open() as file:
        assert next(csv.reader(file)) == ["part", *COLUMNS]


def test_terms_of_a_method_are_columns_too(tmp_path):
    curve = LearningCurve(tmp_path / "m.csv", ["mean and noise"])
    curve.add(0, record(1, divergence=3.0))
    curve.add(0, record(2, divergence=2.0, dropout=0.1))
    rows = read_learning_curve(tmp_path / "m.csv")["mean and noise"]
    assert [(row["divergence"], row["dropout"]) for row in rows] == [(3.0, None), (2.0, 0.1)]


def test_a_resumed_training_goes_on_in_its_file(tmp_path):
    path = tmp_path / "m.csv"
    first = LearningCurve(path, ["a", "b"])
    for epoch in (1, 2, 3):
        first.add(0, record(epoch))
    first.add(1, record(1))
    # Killed between the row of epoch 3 and the state of it: epoch 3 is done again.
    again = LearningCurve(path, ["a", "b"], resume=True)
    again.add(0, record(3, 7.0))
    again.add(0, record(4, 6.0))
    found = read_learning_curve(path)
    assert [(row["epoch"], row["valid_loss"]) for row in found["a"]] == [(1, 1.0), (2, 1.0), (3, 7.0), (4, 6.0)]
    assert len(found["b"]) == 1
    # A new training is a new file, and what is no learning curve is not taken up.
    assert LearningCurve(path, ["a", "b"]).rows == {"a": [], "b": []}
    path.write_text("x,y\n1,2\n")
    with pytest.raises(InputError, match="must be the learning curve of a training"):
        LearningCurve(path, ["a"], resume=True)


def test_a_row_that_was_cut_off_does_not_stop_a_resumed_training(tmp_path):
    path = tmp_path / "m.csv"
    first = LearningCurve(path, ["a"])
    first.add(0, record(1))
    path.write_text(path.read_text() + "a,2,1.5")
    again = LearningCurve(path, ["a"], resume=True)
    again.add(0, record(2))
    assert [row["valid_loss"] for row in read_learning_curve(path)["a"]] == [1.0, 1.0]


def test_panels_of_the_figure(tmp_path):
    rows = {}
    for part, size in (("member 0", 1.0), ("member 1", 2.0)):
        curve = LearningCurve(tmp_path / "m.csv", [part])
        for epoch in range(1, 8):
            curve.add(0, record(epoch, size / (epoch if epoch < 6 else 3), stress=0.01))
        rows |= curve.rows
    figure = learning_curve_figure(rows)
    names = [ax.get_title(loc="left") for ax in figure.axes]
    assert names == ["Forces (meV/Å)", "Energies (meV/atom)", "Stress (GPa)", "Loss"]
    line, best = figure.axes[0].lines[:2]
    assert line.get_ydata()[0] == pytest.approx(100.0)
    # The weights that were kept are those of the lowest validation loss, not the last.
    assert best.get_xdata().tolist() == [5.0]
    assert figure.axes[2].lines[0].get_ydata()[0] == pytest.approx(0.01 * 160.2177, rel=1e-4)
    write_figure(figure, tmp_path / "m.png")
    without = {part: [{**row, "valid_stress_rmse_eV_per_A3": None} for row in found] for part, found in rows.items()}
    assert len(learning_curve_figure(without).axes) == 3
    # Phases stand one after the other; a likelihood may be negative, and a single epoch is a dot.
    phases = {"1": rows["member 0"], "2": [{**rows["member 1"][0], "valid_loss": -3.0}]}
    drawn = learning_curve_figure(phases, in_turn=True).axes[0].lines
    assert drawn[2].get_xdata().tolist() == [8.0]
    with pytest.raises(InputError, match="at least one epoch"):
        learning_curve_figure({"member 0": []})
