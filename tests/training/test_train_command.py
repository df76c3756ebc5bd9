"""`ase-uq train` and `calibrate` beside what is there already, and with labels of other kinds."""

import json

import numpy as np
import pytest
from ase import Atoms
from ase.io import write

from ase_uq.models.checkpoint import load
from tests.made.alloys import emt_frames
from tests.made.shell import ase_uq, good

TINY = ["--members", 2, "--jobs", 1, "--epochs", 1, "--channels", 4, "--layers", 1, "--l-max", 1, "--cutoff", 3]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train.xyz", emt_frames(12))
    return tmp_path


def refused(*arguments, cwd):
    done = ase_uq(*arguments, cwd=cwd)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_models_are_not_written_over_unasked(folder):
    good("train", "train.xyz", *TINY, "--out", "m.pt", cwd=folder)
    before = (folder / "m.pt").read_bytes()
    assert "`m.pt` exists already; choose another name, or replace it with --overwrite" in refused(
        "train", "train.xyz", *TINY, "--out", "m.pt", cwd=folder
    )
    assert "`m.pt` exists already" in refused("calibrate", "m.pt", "train.xyz", "--out", "m.pt", cwd=folder)
    assert "`train.xyz` is also read here" in refused(
        "train", "train.xyz", *TINY, "--overwrite", "--out", "train.xyz", cwd=folder
    )
    assert (folder / "m.pt").read_bytes() == before
    good("train", "train.xyz", *TINY, "--seed", 3, "--out", "m.pt", "--overwrite", cwd=folder)
    assert (folder / "m.pt").read_bytes() != before
    (folder / "d.pt").mkdir()
    (folder / "e.pt.curve.csv").mkdir()
    for name, words in (("d.pt", "it is a folder"), ("e.pt", "it is a folder"), ("x/m.pt", "does not exist")):
        assert words in refused("train", "train.xyz", *TINY, "--out", name, cwd=folder)
        assert not (folder / f"{name}.training").exists()


def test_a_training_goes_on_with_its_own_frames_alone(folder):
    run = good("train", "train.xyz", *TINY, "--out", "m.pt", "--json", cwd=folder)
    described = json.loads(run.stdout)
    assert len(described["frames_hash"]) == 64


def test_zeros_of_energy(folder):
    frames = emt_frames(12)
    for atoms in frames:
        atoms.info["REF_energy"] += -100.0 * (atoms.numbers == 29).sum() - 5000.0 * (atoms.numbers == 79).sum()
    isolated = [
        Atoms(symbol, info={"REF_energy": energy, "config_type": "IsolatedAtom"})
        for symbol, energy in (("Cu", -96.5), ("Au", -4996.2))
    ]
    write(folder / "atoms.xyz", [*isolated, *frames])
    said = good("train", "atoms.xyz", *TINY, "--out", "a.pt", cwd=folder).stderr
    assert "note: isolated atoms (Au -4996.2, Cu -96.5 eV) are the zeros of energy, and not trained on." in said
    good("train", "atoms.xyz", *TINY, "--e0s", "Au:-4996.2,Cu:-96.5", "--out", "b.pt", cwd=folder)
    a, b = load(folder / "a.pt"), load(folder / "b.pt")
    assert a.model_hash == b.model_hash
    assert a.training["e0s"] == {"Au": -4996.2, "Cu": -96.5}
    per_atom = [(a.predict(f, []).energy - f.info["REF_energy"]) / len(f) for f in frames]
    assert np.abs(per_atom).max() < 1.0
    assert "`--e0s` must have an energy for every element" in refused(
        "train", "train.xyz", *TINY, "--e0s", "Cu:-1", "--out", "c.pt", cwd=folder
    )
    assert "`--e0s` must be energies of isolated atoms" in refused(
        "train", "train.xyz", *TINY, "--e0s", "copper", "--out", "c.pt", cwd=folder
    )


def test_energies_far_off_can_be_let_in(folder):
    frames = emt_frames(12)
    frames[3].info["REF_energy"] += 120.0
    write(folder / "far.xyz", frames)
    assert "`--max-residual` 20" in refused("train", "far.xyz", *TINY, "--out", "m.pt", cwd=folder)
    assert not list(folder.glob("m.pt*"))
    good("train", "far.xyz", *TINY, "--out", "m.pt", "--max-residual", 50, cwd=folder)
