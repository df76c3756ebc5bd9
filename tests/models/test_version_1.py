"""Model files of format version 1 give the numbers they gave when they were written."""

import json
from pathlib import Path

import numpy as np
import pytest

from ase_uq import load, save
from tests.made.structures import copper, rattled

FILES = Path(__file__).parent / "version_1"
NUMBERS = json.loads((FILES / "numbers.json").read_text())


@pytest.mark.parametrize("name", NUMBERS)
def test_files_of_version_1_give_the_same(name, tmp_path):
    old, expected = load(FILES / f"{name}.pt"), NUMBERS[name]
    save(old, tmp_path / "new.pt")
    for model in (old, load(tmp_path / "new.pt")):
        found = model.predict(rattled(copper(), 1))
        np.testing.assert_allclose(found.energy_members, expected["energy_members"], rtol=1e-12)
        np.testing.assert_allclose(found.forces_members[:, 0], expected["first_force"], rtol=1e-9, atol=1e-11)
        assert (str(model.dof), model.mean_share) == (expected["dof"], expected["mean_share"])
        assert (model.model_hash, model.training) == (expected["model_hash"], {"method": name})
        assert (model.alpha, model.alpha_forces, model.alpha_stress) == (1.5, 1.2, None)
