"""A second architecture: one class, one line in `ARCHITECTURES`, and everything else takes it as it is."""

import numpy as np
import pytest

from ase_uq import load, save
from ase_uq.models.llpr import LLPRUncertainty
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import ARCHITECTURES, DeepEnsemble, FeaturePotential, ShallowEnsemble, TrainablePotential
from ase_uq.potentials.abilities import RefitsReadout, RefitsReference
from ase_uq.potentials.graph import build_graph
from ase_uq.testing import assert_potential, assert_uncertainty_model
from ase_uq.training import Deep, FitSettings, Shallow, TrainingRun, train_members
from ase_uq.training.verdict import training_warnings
from tests.made.alloys import labelled
from tests.made.potentials import potential
from tests.made.toy import ToyPotential

SETTINGS = FitSettings(epochs=2, batch_size=4, learning_rate=0.01)


@pytest.fixture(autouse=True)
def _one_line(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "toy", ToyPotential)


@pytest.fixture(scope="module")
def frames():
    return labelled(16, 0)


def body_of(frames, name, seed=0):
    return TrainingRun(frames, frames[:4], Deep(n_members=2), architecture=name).new_body(seed=seed)


def assert_kept(model, atoms, path):
    assert_uncertainty_model(model, atoms)
    save(model, path)
    back = load(path)
    expected, found = model.predict(atoms), back.predict(atoms)
    # A file does not keep how weights lie in memory, and so not the last digit of a sum.
    np.testing.assert_allclose(found.energy_members, expected.energy_members, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found.forces_var, expected.forces_var, rtol=1e-8)
    assert back.model_hash == model.model_hash


@pytest.mark.parametrize("name", ["equivariant", "toy"])
def test_it_is_what_the_protocols_say(name, frames):
    made = body_of(frames, name, seed=3)
    for protocol in (TrainablePotential, FeaturePotential, RefitsReference, RefitsReadout):
        assert isinstance(made, protocol)
    assert made.has_reference
    assert not ARCHITECTURES[name].from_config({"elements": ["Cu"]}).has_reference
    assert made.config() == {**ARCHITECTURES[name].from_config(made.config()).config()}
    assert made.config()["seed"] == 3
    if name == "toy":  # ours is in single precision by default, and tested elsewhere
        assert_potential(made, build_graph(frames[0].atoms, made.cutoff))


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_deep_ensemble_is_trained_stored_and_fine_tuned(frames, tmp_path, jobs):
    options = {"n_members": 2, "settings": SETTINGS, "jobs": jobs}
    made = train_members(frames[:12], frames[12:], config={"n_radial": 5}, architecture="toy", **options)
    assert {type(member) for member in made.members} == {ToyPotential}
    assert made.members[0].n_radial == 5
    assert training_warnings(made, frames[:12], frames[12:])  # two epochs are not enough
    assert_kept(MemberUncertainty(made), frames[0].atoms, tmp_path / "model.pt")
    again = train_members(frames[:12], frames[12:], start=load(tmp_path / "model.pt").potential, **options)
    assert {type(member) for member in again.members} == {ToyPotential}


def test_it_is_the_body_of_heads(frames, tmp_path):
    body = body_of(frames, "toy")
    start = ShallowEnsemble(body, 4)
    made = TrainingRun(frames[:12], frames[12:], Shallow(n_members=4), SETTINGS, start=start).complete().potential
    assert type(made.potential) is ToyPotential
    assert made.centre.abs().max() > 0.0
    assert_kept(MemberUncertainty(made), frames[0].atoms, tmp_path / "model.pt")
    atoms = [frame.atoms for frame in frames]
    assert_kept(LLPRUncertainty.fit(made, atoms), frames[0].atoms, tmp_path / "rigid.pt")


def test_architectures_can_be_mixed(frames, tmp_path):
    elements = sorted({symbol for frame in frames for symbol in frame.atoms.symbols})
    mixed = DeepEnsemble([ToyPotential(elements), potential(elements=elements), ToyPotential(elements, seed=1)])
    assert_kept(MemberUncertainty(mixed, memory_limit=4.0), frames[0].atoms, tmp_path / "model.pt")


def test_without_machine_code_it_is_evaluated_as_it_is(frames, caplog):
    made = DeepEnsemble([body_of(frames, "toy", seed) for seed in range(2)])
    model = MemberUncertainty(made, compile="auto")
    assert "no machine code for DeepEnsemble" in caplog.text
    assert model.predict(frames[0].atoms).energy == MemberUncertainty(made).predict(frames[0].atoms).energy
