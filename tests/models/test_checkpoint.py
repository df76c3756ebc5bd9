"""One file per model: the same numbers back, and nothing but weights accepted."""

import pickle

import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT

from ase_uq import CommitteeUncertainty, InputError, load, save
from ase_uq.models.checkpoint import _hash
from ase_uq.models.llpr import LLPRUncertainty
from ase_uq.models.members import MemberUncertainty
from tests.made.potentials import ensemble, potential
from tests.made.structures import copper


def model(alpha=1.0):
    calibration = {"alpha": alpha, "data": "somewhere.xyz"}
    return MemberUncertainty(ensemble(2), alpha=alpha, calibration=calibration, training={"method": "deep", "seed": 3})


def test_a_saved_model_predicts_the_same(tmp_path):
    original = model(alpha=2.5)
    save(original, tmp_path / "model.pt")
    back = load(tmp_path / "model.pt")
    a, b = original.predict(copper()), back.predict(copper())
    assert (a.energy, a.energy_var) == (b.energy, b.energy_var)
    assert (a.forces == b.forces).all()
    assert (a.stress_var == b.stress_var).all()
    assert (back.alpha, back.calibration, back.training) == (2.5, original.calibration, original.training)
    assert back.model_hash == original.model_hash
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


def test_the_hash_knows_the_weights_and_alpha():
    assert model().model_hash == model().model_hash
    assert model().model_hash != model(alpha=2.0).model_hash
    changed = model()
    next(changed.potential.parameters()).data[0] += 1e-7
    assert MemberUncertainty(changed.potential).model_hash != model().model_hash


def content(tmp_path):
    save(model(), tmp_path / "model.pt")
    return torch.load(tmp_path / "model.pt", weights_only=True)


class Harmful:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda c: {**c, "extra": 1}, "must hold exactly the entries"),
        (lambda c: {k: v for k, v in c.items() if k != "hash"}, "must hold exactly the entries"),
        (lambda c: {**c, "format": "other"}, "must hold exactly the entries"),
        (lambda c: {**c, "version": 99}, "format version 99"),
        (lambda c: {**c, "description": c["description"].replace("1.0", "2.0")}, "does not match its own hash"),
        (lambda c: {**c, "state": {k: v + 1 for k, v in c["state"].items()}}, "does not match its own hash"),
        (lambda c: {**c, "state": Harmful()}, "holds more than weights"),
        (lambda c: [1, 2, 3], "must hold exactly the entries"),
    ],
)
def test_anything_else_is_refused(tmp_path, capsys, change, rule):
    torch.save(change(content(tmp_path)), tmp_path / "bad.pt")
    with pytest.raises(InputError, match=rule):
        load(tmp_path / "bad.pt")
    assert "code was run" not in capsys.readouterr().out


def test_weights_of_another_architecture_are_refused(tmp_path):
    """A file of another version may be whole and honest, and still not fit."""
    whole = content(tmp_path)
    state = {f"{name}_renamed": value for name, value in whole["state"].items()}
    other = {**whole, "state": state, "hash": _hash(whole["description"], state)}
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(InputError, match="was written by ase_uq .*, whose architecture differs"):
        load(tmp_path / "other.pt")


def test_damaged_and_foreign_files(tmp_path):
    save(model(), tmp_path / "model.pt")
    whole = (tmp_path / "model.pt").read_bytes()
    for name, damaged in (
        ("short.pt", whole[: len(whole) // 2]),
        ("empty.pt", b""),
        ("text.pt", b"hello"),
        ("pickle.pt", pickle.dumps(Harmful())),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=f"{name}. could not be read as a model file"):
            load(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "missing.pt")


def test_foreign_models_are_not_saved(tmp_path):
    with pytest.raises(InputError, match="must be made of potentials of ase_uq"):
        save(CommitteeUncertainty([EMT(), EMT()]), tmp_path / "model.pt")
    with pytest.raises(InputError, match="folder of .* does not exist"):
        save(model(), tmp_path / "nowhere" / "model.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_the_last_layer_keeps_its_covariance_and_its_doubts(tmp_path):
    told = {"n_different": 3, "n_features": 40, "determined": 1.5}
    body = potential()
    made = LLPRUncertainty(body, torch.eye(body.n_features, dtype=torch.float64), n_members=4, training=told)
    save(made.calibrated(2.0, {}), tmp_path / "model.pt")
    again = load(tmp_path / "model.pt", memory_limit=4.0)
    assert type(again) is LLPRUncertainty
    assert torch.equal(again.covariance, made.covariance)
    assert again.warnings == made.warnings != ()
    expected = made.calibrated(2.0, {}).predict(copper()).energy_members
    np.testing.assert_allclose(again.predict(copper()).energy_members, expected, rtol=1e-10)


def test_a_subclass_is_not_taken_for_its_base(tmp_path):
    class Other(MemberUncertainty):
        """May do anything with the same state."""

    with pytest.raises(InputError, match="got Other, which is none of MemberUncertainty, LLPRUncertainty"):
        save(Other(ensemble(2)), tmp_path / "model.pt")


def test_a_class_that_a_file_must_not_name(tmp_path):
    whole = content(tmp_path)
    description = whole["description"].replace('"model": "MemberUncertainty"', '"model": "Path"')
    other = {**whole, "description": description, "hash": _hash(description, whole["state"])}
    torch.save(other, tmp_path / "other.pt")
    with pytest.raises(InputError, match="holds a 'Path', written by ase_uq .*, which this ase_uq does not know"):
        load(tmp_path / "other.pt")


def test_options_of_evaluation_that_do_not_exist(tmp_path):
    save(model(), tmp_path / "model.pt")
    with pytest.raises(InputError, match="`gpu` must be left out for a MemberUncertainty"):
        load(tmp_path / "model.pt", gpu=True)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    save(model(), tmp_path / "model.pt")
    before = (tmp_path / "model.pt").read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save(model(alpha=2.0), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
