"""The last stage of a training: the weight of energies as a function, its loss by hand, resuming, what it is for."""

import importlib
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from ase_uq.errors import InputError
from ase_uq.potentials import EquivariantPotential
from ase_uq.training import FitSettings
from ase_uq.training.balance import MOST, SHARE, BalancedErrors, balance, balanced, energy_factor, usual_objective
from ase_uq.training.batches import Batches
from ase_uq.training.fit import fit, validate
from ase_uq.training.losses import Errors, SquaredErrors
from ase_uq.training.reference import fit_reference
from ase_uq.training.settings import Weights
from ase_uq.training.state_file import read_state
from tests.made.alloys import labelled
from tests.made.potentials import potential

WEIGHTS = Weights(10.0, 1.0, 1.0)
SMALL = {"cutoff": 3.5, "channels": 8, "radial_width": 16, "n_layers": 1, "l_max": 1}


def errors(energy, forces, n_atoms=100, loss=1.0):
    return Errors(loss, energy, forces, None, energy * math.sqrt(n_atoms))


def batches(frames):
    return Batches(frames, cutoff=3.5, batch_size=4)


def factor(past, progress, stage=0.4):
    return energy_factor(WEIGHTS, past, stage=stage, progress=progress)


def test_the_factor_is_how_far_energies_are_behind_in_its_bounds():
    # 10 meV over the root of atoms where forces are off by 20 meV/Å: five times 0.1 Å.
    assert balance(WEIGHTS, errors(0.001, 0.02)) == pytest.approx(25.0)
    assert balance(WEIGHTS, errors(0.001, 0.02, n_atoms=9)) == pytest.approx(2.25)
    assert balance(WEIGHTS, errors(0.001, 0.02, n_atoms=3)) == 1.0  # errors of atoms that add up at random
    assert balance(WEIGHTS, errors(0.001, 0.02, n_atoms=10_000)) == pytest.approx(MOST)
    # No further than to a term of energies that is SHARE times that of forces.
    assert balance(WEIGHTS, errors(0.01, 0.05)) == pytest.approx(SHARE * 2.5)
    assert balance(WEIGHTS, errors(0.1, 0.1)) == 1.0
    for nothing in (errors(0.0, 0.1), errors(0.1, 0.0)):
        assert balance(WEIGHTS, nothing) == 1.0
    assert balance(Weights(0.0, 1.0, 1.0), errors(0.001, 0.02)) == 1.0
    assert balance(Weights(10.0, 0.0, 1.0), errors(0.001, 0.02)) == 1.0
    assert balanced(WEIGHTS, errors(0.001, 0.02)).energy == pytest.approx(250.0)


def test_the_weight_rises_smoothly_over_the_first_half_of_the_stage():
    past = [errors(0.001, 0.02)]
    assert [factor(past, p) for p in (0.0, 0.3, 0.6)] == [1.0, 1.0, 1.0]
    assert factor(past, 0.7) == pytest.approx(5.0)  # half of the rise
    assert [factor(past, p) for p in (0.8, 0.9, 1.0, 1.1)] == pytest.approx([25.0] * 4)
    rise = [factor(past, 0.6 + 0.002 * k) for k in range(101)]
    assert all(a <= b < 1.1 * a for a, b in pairwise(rise))


def test_it_follows_the_last_epochs():
    last = [errors(0.001, 0.02), errors(0.001, 0.05), errors(0.001, 0.1)]
    assert factor([errors(0.002, 0.02)] * 20 + last, 1.0) == pytest.approx((25.0 * 4.0 * 1.0) ** (1 / 3))
    assert factor([], 1.0) == 1.0
    assert factor(last, 1.0, stage=0.0) == 1.0


def test_training_has_the_new_weight_and_validation_the_old_one():
    body, data = potential(elements=("Au", "Cu")), batches(labelled(6, 0))
    objective = BalancedErrors(WEIGHTS, stage=0.5)
    first = validate(body, data, SquaredErrors(WEIGHTS))
    objective.follow([errors(0.001, 0.1, n_atoms=1000)], progress=1.0)
    batch = next(data.in_order())
    scored = objective(body, batch.graph, batch.labels, training=True)
    heavy = SquaredErrors(replace(WEIGHTS, energy=100.0))
    assert scored.terms["energy_weight"].item() == pytest.approx(100.0)
    assert scored.loss.item() == pytest.approx(heavy(body, batch.graph, batch.labels, training=True).loss.item())
    found = validate(body, data, objective)
    assert found == first
    # As they are compared: by the weights of now.
    assert objective.loss(found, scale=float(body.scale)) == pytest.approx(validate(body, data, heavy).loss)


def test_the_best_epoch_is_that_by_the_last_weights(monkeypatch):
    module = importlib.import_module("ase_uq.training.fit")  # the name in the package is the function
    body, data = EquivariantPotential(["Au", "Cu"], **SMALL), batches(labelled(6, 0))
    body.scale.fill_(1.0)
    # By the first weights the second epoch is best; but energies count for more at the end.
    given = [(0.02, 0.09), (0.01, 0.08), (0.003, 0.0865), (0.01, 0.1)]
    found = iter(errors(e, f, loss=10 * e * e + f * f) for e, f in given)
    monkeypatch.setattr(module, "validate", lambda *_: next(found))
    weights = []

    def remember(_):
        weights.append({name: value.clone() for name, value in body.state_dict().items()})

    settings = FitSettings(epochs=4, ema=0.0, batch_size=4, energy_stage=0.6)
    fit(body, data, data, settings, on_epoch=remember)
    same = [all(torch.equal(body.state_dict()[name], value) for name, value in each.items()) for each in weights]
    assert same == [False, False, True, False]


def test_an_interrupted_stage_ends_in_the_same_place(tmp_path):
    frames = labelled(14, 1)

    def trained(**options):
        body = EquivariantPotential(["Au", "Cu"], seed=3, **SMALL)
        seen = []

        def look(record):
            seen.append((record.epoch, record.terms["energy_weight"], record.train_loss, record.valid_loss))
            if record.epoch == options.get("stop"):
                raise KeyboardInterrupt

        settings = FitSettings(epochs=8, batch_size=4, energy_weight=0.1, energy_stage=0.9)
        state = {name: value for name, value in options.items() if name != "stop"}
        fit(body, batches(frames[:8]), batches(frames[8:]), settings, on_epoch=look, **state)
        return body, seen

    whole, seen = trained()
    with pytest.raises(KeyboardInterrupt):
        trained(stop=5, state_path=tmp_path / "state.pt")
    resumed, rest = trained(state_path=tmp_path / "state.pt", resume=True)
    assert rest == seen[5:]
    assert seen[0][1] == 0.1
    assert len({weight for _, weight, *_ in seen[5:]}) == 3
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_state_of_an_earlier_version_is_refused_in_words(tmp_path):
    body, data, path = EquivariantPotential(["Au", "Cu"], **SMALL), batches(labelled(6, 0)), tmp_path / "state.pt"
    settings = FitSettings(epochs=1, batch_size=4)
    fit(body, data, data, settings, state_path=path)
    state = read_state(path)
    state["done"] = {"epoch": 1, "seconds": 1.0, "best": 1.0, "losses": [1.0]}
    torch.save(state, path)
    with pytest.raises(InputError, match="is of an earlier version"):
        fit(body, data, data, settings, state_path=path, resume=True)


@pytest.mark.parametrize("schedule", ["plateau", "constant"])
def test_other_schedules_have_no_stage(schedule):
    assert usual_objective(FitSettings(schedule=schedule, energy_stage=0.5)).stage == 0.0
    assert usual_objective(FitSettings(energy_stage=0.5)).stage == 0.5
    assert usual_objective(FitSettings()).stage == 0.0  # an option: it costs forces


@pytest.mark.parametrize("stage", [-0.1, 1.0, math.nan])
def test_bad_stages(stage):
    with pytest.raises(InputError, match="`energy_stage` must lie in"):
        FitSettings(energy_stage=stage)


def test_energies_are_not_left_behind():
    """A weight so small that forces alone are learnt: the stage brings energies along and leaves forces as they are."""
    frames = labelled(34, 1)
    reference = fit_reference(frames[:24], cutoff=3.5)

    def trained(stage):
        body = EquivariantPotential(["Au", "Cu"], seed=6, dtype="float64", **SMALL)
        body.set_reference(shifts=reference.shifts, scale=reference.scale, mean_neighbours=reference.mean_neighbours)
        settings = FitSettings(
            epochs=30, batch_size=4, learning_rate=0.02, ema=0.9, energy_weight=0.01, energy_stage=stage
        )
        fit(body, batches(frames[:24]), batches(frames[24:]), settings)
        return validate(body, batches(frames[24:]), SquaredErrors(WEIGHTS))

    without, found = trained(0.0), trained(0.9)
    assert found.energy_rmse < 0.5 * without.energy_rmse
    assert found.forces_rmse < 1.1 * without.forces_rmse
