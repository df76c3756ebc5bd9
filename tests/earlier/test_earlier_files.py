"""Models and a log of version 0.1 are read, and give the numbers they gave when they were written."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from ase_uq import load, read_log, reweight, save
from ase_uq.report.build import write_report

HERE = Path(__file__).parent
NUMBERS = json.loads((HERE / "numbers.json").read_text())


@pytest.mark.parametrize("name", NUMBERS["models"])
def test_models(name, tmp_path):
    old, expected = load(HERE / f"{name}.pt"), NUMBERS["models"][name]
    save(old, tmp_path / "new.pt")
    for model in (old, load(tmp_path / "new.pt")):
        assert (model.mean_share, str(model.dof)) == (expected["mean_share"], expected["dof"])
        assert (model.model_hash, model.training) == (expected["model_hash"], {"method": name})
        assert (model.alpha, model.alpha_forces, model.alpha_stress) == (1.5, 2.0, None)
        assert model.calibration == {"alpha": 1.5, "data": "made up"}
        found = model.predict(Atoms(**NUMBERS["structure"], pbc=True))
        assert [found.alpha, found.alpha_forces, found.alpha_stress] == expected["alphas"]
        for field in ("energy", "energy_var", "energy_members", "forces", "forces_var", "stress", "stress_var"):
            size = np.abs(expected[field]).max()
            np.testing.assert_allclose(getattr(found, field), expected[field], rtol=1e-8, atol=1e-9 * size)


def test_a_log(tmp_path):
    log, expected = read_log(HERE / "run.h5"), NUMBERS["run"]
    assert log.n_frames == expected["n_frames"]
    assert {name: log.attributes[name] for name in expected["attributes"]} == expected["attributes"]
    for name, value in expected["last"].items():
        assert getattr(log, name)[-1] == value
    np.testing.assert_array_equal(log.energy_members[-1], expected["members"])
    result = reweight(
        log.observables["r"], energy_members=log.energy_members, energy_reference=log.energy, temperature_K=60.0
    )
    for name, value in expected["average"].items():
        # How sampling errors are estimated is no matter of the file, and may become better.
        rel = 0.02 if name in ("std_sampling", "std_total", "ess") else 1e-9
        assert getattr(result, name) == pytest.approx(value, rel=rel)
    assert list(result.interval()) == pytest.approx(expected["interval"], abs=2e-3)
    write_report(HERE / "run.h5", tmp_path / "report.html")
    assert "3.83" in (tmp_path / "report.html").read_text()
