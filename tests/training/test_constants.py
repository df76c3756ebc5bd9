"""Constants of members: refitted to the labels, without a trace in any force."""

import numpy as np
import pytest
import torch

from ase_uq.models.checkpoint import load, save
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import ShallowEnsemble, evaluate, make_variational, sample_members
from ase_uq.structures.offsets import fit_offsets
from ase_uq.training import FitSettings, train_members
from ase_uq.training.batches import Batches
from ase_uq.training.constants import centre_draws, centre_heads, composition_constants, refit_constants
from ase_uq.training.variational import train_variational
from tests.made.alloys import labelled
from tests.made.potentials import potential
from tests.made.training import train_shallow

CONFIG = {"cutoff": 3.5, "channels": 8, "n_layers": 1, "radial_width": 16, "l_max": 1}


@pytest.fixture(scope="module")
def frames():
    return labelled(24, 0)


def batches(frames):
    return Batches(frames, cutoff=3.5, batch_size=5)


def misses(model, frames):
    """Errors of every member per atom, (M, S), eV, and the counts of elements per atom, (S, Z)."""
    errors = np.array([model.predict(f.atoms).energy_members - f.energy for f in frames]).T
    symbols = sorted({symbol for f in frames for symbol in f.atoms.symbols})
    counts = np.array([[list(f.atoms.symbols).count(symbol) for symbol in symbols] for f in frames])
    return errors / counts.sum(axis=1), counts / counts.sum(axis=1, keepdims=True)


def test_constants_are_those_of_one_column_at_a_time(frames):
    rng = np.random.default_rng(0)
    structures = [f.atoms for f in frames]
    counts = np.array([[list(atoms.symbols).count(symbol) for symbol in ("Au", "Cu")] for atoms in structures], float)
    values = rng.normal(size=(len(frames), 3))
    found = composition_constants(counts, values)
    for k in range(3):
        offsets = fit_offsets(structures, model_energies=values[:, k], baseline_energies=np.zeros(len(frames)))
        assert found[:, k] == pytest.approx([offsets["Au"], offsets["Cu"]])


def test_a_single_composition_gets_the_smallest_constants():
    counts = np.tile([1.0, 3.0], (4, 1))
    found = composition_constants(counts, np.full((4, 1), 5.0))
    assert found[:, 0] == pytest.approx([0.5, 1.5])  # 1 a + 3 b = 5, shortest


@pytest.mark.parametrize("method", ["deep", "shallow", "blip"])
def test_no_member_is_off_by_a_constant_after_training(frames, method, tmp_path):
    # One composition in half of the trainings' frames, several in the rest.
    train = {"deep": train_members, "shallow": train_shallow, "blip": train_variational}[method]
    settings = FitSettings(epochs=2, batch_size=4, learning_rate=0.02)
    ensemble = train(frames[:18], frames[18:], n_members=4, settings=settings, config=CONFIG)
    save(MemberUncertainty(ensemble), tmp_path / "model.pt")
    for model in (MemberUncertainty(ensemble), load(tmp_path / "model.pt")):
        errors, shares = misses(model, frames[:18])
        assert np.abs(errors @ shares).max() < 1e-5 * np.abs(errors).sum(axis=1).max()
        assert np.abs(errors).max() > 1e-3


@pytest.mark.parametrize("n_elements", [1, 2])
def test_refits_leave_forces_alone(frames, n_elements):
    if n_elements == 1:  # a composition for itself: nothing tells the elements apart
        formula = frames[0].atoms.get_chemical_formula()
        frames = [f for f in labelled(80, 1) if f.atoms.get_chemical_formula() == formula]
    body = potential(elements=("Au", "Cu"), n_layers=2)
    heads, draws = ShallowEnsemble(body, 4, seed=1), sample_members(make_variational(body, seed=2), 4, seed=3)
    draws.potential.learn([batch.graph for batch in batches(frames).in_order()])
    refits = [(body, refit_constants), (heads, centre_heads), (draws, centre_draws)]
    for model, refit in refits:
        before = [evaluate(model, batch.graph) for batch in batches(frames).in_order()]
        refit(model, batches(frames))
        after = [evaluate(model, batch.graph) for batch in batches(frames).in_order()]
        for old, new in zip(before, after, strict=True):
            np.testing.assert_allclose(old.forces, new.forces, rtol=0, atol=1e-12 * float(old.forces.abs().max()))
    for model in (heads, draws):
        errors, shares = misses(MemberUncertainty(model), frames)
        assert np.abs(errors @ shares).max() < 1e-8 * np.abs(errors).max()
        assert np.std(errors, axis=0).max() > 1e-6


def test_heads_spread_as_their_features_do_about_the_average_atom(frames):
    body = potential(elements=("Au", "Cu"))
    heads = ShallowEnsemble(body, 6, seed=1)
    centre_heads(heads, batches(frames))
    (batch,) = Batches(frames, cutoff=3.5, batch_size=len(frames)).in_order()
    with torch.no_grad():
        counts = np.array([[list(f.atoms.symbols).count(symbol) for symbol in ("Au", "Cu")] for f in frames], float)
        features = body.summed_features(batch.graph).numpy()
        centred = features - counts @ composition_constants(counts, features)
        spread = heads.energies(batch.graph) - body.energies(batch.graph)
    assert spread.numpy() == pytest.approx((centred @ heads.deviations().detach().numpy()).T)


def test_files_from_before_there_were_constants_are_read():
    heads, draws = ShallowEnsemble(potential(), 3), sample_members(make_variational(potential()), 3)
    for model, name in ((heads, "centre"), (draws, "constants")):
        state = {key: value for key, value in model.state_dict().items() if key != name}
        getattr(model, name).fill_(1.0)
        model.load_state_dict(state)
        assert not getattr(model, name).any()
