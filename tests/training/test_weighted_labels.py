"""Frames without forces and with weights of their own: what a training makes of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ase_uq.errors import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import DeepEnsemble, EquivariantPotential
from ase_uq.potentials.base import evaluate
from ase_uq.structures.frames import split_frames
from ase_uq.training import Blip, Deep, FitSettings, Shallow, TrainingRun
from ase_uq.training.batches import Batches
from ase_uq.training.constants import refit_constants
from ase_uq.training.fit import validate
from ase_uq.training.losses import SquaredErrors
from ase_uq.training.rows import last_layer_rows
from ase_uq.training.settings import Weights
from ase_uq.validation.residuals import residuals
from tests.made.alloys import SMALL, labelled


@pytest.fixture(scope="module")
def frames():
    return labelled(12, 0)


@pytest.fixture(scope="module")
def potential():
    made = EquivariantPotential(["Au", "Cu"], dtype="float64", **SMALL)
    made.scale.fill_(0.5)
    return made


def batches(frames, size=4):
    return Batches(frames, cutoff=SMALL["cutoff"], batch_size=size)


def test_loss_by_hand(frames, potential):
    some = [
        replace(frames[0], weights=(2.0, 3.0, 4.0)),
        replace(frames[1], forces=None),
        replace(frames[2], weights=(0.0, 1.0, 1.0), stress=None),
    ]
    batch = next(batches(some).in_order())
    evaluation = evaluate(potential, batch.graph, stress=True)
    scored = SquaredErrors(Weights(2.0, 3.0, 5.0))(potential, batch.graph, batch.labels, training=False)
    energy = forces = stress = 0.0
    for s, frame in enumerate(some):
        atoms = slice(4 * s, 4 * s + 4)
        energy += frame.weights[0] * (evaluation.energies[0, s].item() - frame.energy) ** 2 / 16 / 0.25 / 2
        if frame.forces is not None:
            squares = (evaluation.forces[0, atoms].numpy() - frame.forces) ** 2
            forces += frame.weights[1] * squares.sum() / 0.25 / 24
        if frame.stress is not None:
            virial = (evaluation.stresses[0, s].numpy() - frame.stress) * frame.atoms.get_volume()
            stress += frame.weights[2] * (virial**2).sum() / 16 / 0.25 / 12
    assert scored.loss.item() == pytest.approx(2 * energy + 3 * forces + 5 * stress)
    assert scored.force_error.shape == (8, 3)


def test_unlabelled_is_not_validated(frames, potential):
    """What has no label, or no weight, changes no error, whatever is written there."""
    wrong = [*frames[:4], replace(frames[4], energy=1e6, weights=(0.0, 1.0, 1.0)), replace(frames[5], forces=None)]
    objective = SquaredErrors(Weights(1.0, 1.0, 1.0))
    found = validate(potential, batches(wrong), objective)
    energies = validate(potential, batches([*frames[:4], frames[5]]), objective).energy_rmse
    forces = validate(potential, batches(frames[:5]), objective).forces_rmse
    assert found.energy_rmse == pytest.approx(energies)
    assert found.forces_rmse == pytest.approx(forces)


def test_a_weight_is_as_good_as_copies(frames, potential):
    """Twice the weight, or the frame twice: the same constants and normal equations of the last layer."""
    doubled = [replace(frames[0], weights=(2.0, 2.0, 2.0)), *frames[1:6]]
    copied = [frames[0], *frames[:6]]
    shifts, sums = [], []
    for data in (batches(doubled), batches(copied)):
        body = EquivariantPotential(["Au", "Cu"], dtype="float64", **SMALL)
        refit_constants(body, data)
        shifts.append(body.shifts.numpy())
        rows = last_layer_rows(potential, data)
        sums.append(
            (
                (rows.energies.x**2).sum(),
                (rows.virials.x**2).sum(),
                (rows.virials.x * rows.virials.error[:, None]).sum(),
            )
        )
    assert shifts[0] == pytest.approx(shifts[1])
    assert [float(a) for a in sums[0]] == pytest.approx([float(b) for b in sums[1]])


@pytest.mark.parametrize("method", [Deep(n_members=2), Shallow(n_members=2), Blip(n_members=2)])
def test_every_method_trains_on_mixed_labels(frames, method):
    mixed = [
        replace(frames[0], forces=None, stress=None),
        replace(frames[1], energy=-1e6, weights=(0.0, 2.0, 1.0)),
        replace(frames[2], weights=(10.0, 0.1, 1.0)),
        replace(frames[3], stress=None),
        *frames[4:8],
    ]
    run = TrainingRun(mixed, frames[8:], method, FitSettings(epochs=1, batch_size=4), config=SMALL)
    model = run.complete()
    predicted = [model.predict(frame.atoms).energy for frame in frames[8:]]
    assert np.abs(np.subtract(predicted, [frame.energy for frame in frames[8:]])).max() < 50.0
    assert all(sentence.endswith(".") for sentence in run.warnings(model))
    only = [replace(f, weights=(0.0, 1.0, 1.0), energy=np.inf) for f in frames[:8]]
    assert torch.isfinite(torch.tensor(model.predict(only[0].atoms).energy))


def test_validation_frames_have_forces(frames):
    some = [replace(frame, forces=None) if k % 4 else frame for k, frame in enumerate(frames)]
    train, valid = split_frames(some, valid_fraction=0.5)
    assert len(train) + len(valid) == 12
    assert all(frame.forces is not None for frame in valid)
    assert any(frame.forces is not None for frame in train)
    with pytest.raises(InputError, match="must not all vanish"):
        TrainingRun([some[1]], valid, Deep(), config=SMALL).new_body()


def test_scores_are_of_what_is_labelled(frames, potential):
    model = MemberUncertainty(DeepEnsemble([potential, EquivariantPotential(["Au", "Cu"], seed=1, **SMALL)]))
    some = [replace(frame, forces=None) if k < 4 else frame for k, frame in enumerate(frames)]
    found, rest = residuals(model, some), residuals(model, frames[4:])
    assert found.force_error == pytest.approx(rest.force_error)
    assert found.stacked("forces") == pytest.approx(rest.stacked("forces"))
    assert found.energy_error.shape == (12,)
    assert found.force_scores().rmse == pytest.approx(rest.force_scores().rmse)
