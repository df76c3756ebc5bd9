"""The last layer by least squares: rows by finite differences, the exact solution, and no step that does harm."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ase_uq.potentials import evaluate
from ase_uq.training import FitSettings, train_members
from ase_uq.training.batches import Batches
from ase_uq.training.fit import validate
from ase_uq.training.last_layer import best_step, finish_body, without_last_steps
from ase_uq.training.losses import SquaredErrors
from ase_uq.training.rows import last_layer_rows
from ase_uq.training.settings import Weights
from ase_uq.training.variational import train_variational
from tests.made.alloys import labelled
from tests.made.potentials import potential
from tests.made.training import train_shallow

WEIGHTS = Weights(10.0, 1.0, 1.0)
SETTINGS = FitSettings(energy_weight=10.0, forces_weight=1.0, stress_weight=1.0)
ELEMENTS = ("Au", "Cu")
SMALL = {"cutoff": 3.5, "channels": 8, "radial_width": 16, "n_layers": 1, "l_max": 1}


def batches(frames):
    return Batches(frames, cutoff=3.5, batch_size=4)


def labelled_by(body, frames):
    """Frames with the labels of a potential."""
    found = [evaluate(body, batch.graph, stress=True) for batch in Batches(frames, cutoff=3.5, batch_size=1).in_order()]
    return [
        replace(f, energy=e.energies.item(), forces=e.forces[0].numpy(), stress=e.stresses[0, 0].numpy())
        for f, e in zip(frames, found, strict=True)
    ]


def test_rows_tell_the_errors_after_a_step():
    body, data = potential(elements=ELEMENTS), batches(labelled(9, 0))
    step = torch.from_numpy(np.random.default_rng(0).normal(scale=0.3, size=body.n_features))
    told = last_layer_rows(body, data, seed=2).moved(step)
    body.move_readout(step)
    found = last_layer_rows(body, data, seed=2)
    for name in ("forces", "energies", "virials"):
        assert len(getattr(found, name).error)
        torch.testing.assert_close(getattr(told, name).error, getattr(found, name).error, rtol=1e-8, atol=1e-8)


def test_rows_leave_out_what_vanishes_by_symmetry():
    frames = labelled(4, 0)
    for frame in frames:
        frame.forces[:, 2] = 1e-9
    rows = last_layer_rows(potential(elements=ELEMENTS), batches(frames), seed=0)
    assert len(rows.forces.error) == 4 * 4 * 2


def test_the_last_layer_that_made_the_labels_is_found():
    truth, body = potential(elements=ELEMENTS), potential(elements=ELEMENTS)
    step = torch.from_numpy(np.random.default_rng(1).normal(size=truth.n_features))
    truth.move_readout(step * 0.2 * truth.readout().abs())
    truth.shifts.add_(torch.tensor([3.0, -2.0], dtype=torch.float64))
    frames = labelled_by(truth, labelled(16, 0))
    train, valid = batches(frames[:10]), batches(frames[10:])
    before = validate(body, valid, SquaredErrors(WEIGHTS)).loss
    assert finish_body(body, train, valid, SETTINGS) is not None
    assert validate(body, valid, SquaredErrors(WEIGHTS)).loss < 1e-4 * before


def test_a_step_that_helps_training_alone_is_not_taken():
    frames = labelled(14, 0)
    body, rng = potential(elements=ELEMENTS), np.random.default_rng(0)
    exact = labelled_by(body, frames)
    wrong = [replace(f, forces=f.forces + rng.normal(size=f.forces.shape)) for f in exact[:6]]
    before = body.readout().clone()
    finish_body(body, batches(wrong), batches(exact[6:]), SETTINGS)
    torch.testing.assert_close(body.readout(), before)


def test_the_last_layer_does_not_grow_beyond_measure():
    body, frames = potential(elements=ELEMENTS), labelled(14, 0)
    body.move_readout(-0.99 * body.readout())
    shown, held_out = (last_layer_rows(body, batches(some)) for some in (frames[:9], frames[9:]))
    step = best_step(shown, held_out, WEIGHTS, readout=body.readout().detach())
    unit = shown.forces.x.square().mean(dim=0).sqrt()
    readout = body.readout().detach()
    grown = (unit * (readout + (0.0 if step is None else step))).norm() / (unit * readout).norm()
    assert float(grown) < 10.0


@pytest.mark.parametrize("train", [train_members, train_shallow, train_variational])
def test_a_time_budget_holds_the_last_steps(train, monkeypatch):
    """By a clock that every batch moves: no machine is too slow for it."""
    frames, minutes, clock = labelled(24, 0), 0.1, [0.0]

    def moving(batches):
        def moved(*arguments, **options):
            for batch in batches(*arguments, **options):
                clock[0] += 0.1
                yield batch

        return moved

    for name in ("shuffled", "in_order"):
        monkeypatch.setattr(Batches, name, moving(getattr(Batches, name)))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    settings = FitSettings(epochs=10**6, minutes=minutes, batch_size=4, learning_rate=0.01)
    train(frames[:18], frames[18:], n_members=2, settings=settings, config=SMALL)
    n_trainings = 2 if train is train_members else 1
    assert 0.3 * n_trainings * 60.0 * minutes < clock[0] < n_trainings * 60.0 * minutes * 1.5 + 3.0


def test_the_budget_of_the_epochs_is_smaller_than_the_whole():
    settings, last = without_last_steps(FitSettings(minutes=10.0))
    assert settings.minutes + last == pytest.approx(10.0)
    assert without_last_steps(FitSettings()) == (FitSettings(), None)
