"""The eight published networks of ANI-1x: a committee that this package did not train, on frames it has not seen.

Its labels, ωB97X/6-31G(d), are those of 3BPA, so that what its members disagree on can be compared with its errors.
"""

import gzip
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchani", reason='needs torchani: pip install "ase-uq[ani]"')

import torchani
from ase import Atoms, units
from ase.md.langevin import Langevin

from ase_uq import CommitteeUncertainty, InputError, UncertaintyLogger, UQCalculator, read_log, reweight
from ase_uq.observables import distance
from ase_uq.training import read_frames
from ase_uq.validation.residuals import residuals, with_factors

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.data, pytest.mark.filterwarnings("ignore:Creating a tensor from a list:UserWarning")]


def networks(name="ANI1x"):
    return [network.ase() for network in getattr(torchani.models, name)(periodic_table_index=True).double()]


@pytest.fixture(scope="module")
def ani():
    return networks()


@pytest.fixture(scope="module")
def frames(reference_data):
    cool, hot = (read_frames(reference_data / "3bpa" / f"test_{kelvin}K.xyz.gz") for kelvin in (300, 600))
    return {"known": cool[::2], "300 K": cool[1::2], "600 K": hot[::2]}


@pytest.fixture(scope="module")
def calibrated(ani, frames):
    """The aligned committee under its factors, and the factors of it and of the committee as it was published."""
    model = CommitteeUncertainty(ani, align=[frame.atoms for frame in frames["known"][::4]])
    factors = residuals(model, frames["known"]).factors()
    published = residuals(CommitteeUncertainty(ani), frames["known"]).calibrate()
    return with_factors(model, factors), factors, published


def test_its_constants_are_most_of_what_its_energies_disagree_on(calibrated):
    _, factors, published = calibrated
    assert factors["energy"].alpha == pytest.approx(1.0, abs=0.2)
    assert factors["forces"].alpha == pytest.approx(0.83, abs=0.1)
    # Centred it needs no alignment; what it would take to cover an offset that no force and no average sees is said.
    assert published.alpha == pytest.approx(factors["energy"].alpha, rel=1e-6)
    assert 4.0 < published.alpha_raw < 5.5
    assert any("alpha would be 4." in text for text in published.warnings)


@pytest.mark.parametrize("name", ["300 K", "600 K"])
def test_intervals_hold_its_errors(calibrated, frames, name):
    model, _, _ = calibrated
    found = residuals(model, frames[name])
    scores = {"energy": found.energy_scores(centred=True), "forces": found.force_scores()}
    for quantity, score in scores.items():
        assert 0.62 < score.coverage_68 < 0.76, quantity
        assert 0.90 < score.coverage_95 < 0.98, quantity
        assert 0.55 < score.within_1_sigma < 0.78, quantity
        assert 0.83 < score.within_196_sigma < 0.97, quantity
    assert 0.1 < scores["forces"].rmse < 0.2  # eV/Å
    assert scores["energy"].rmse < 0.0025  # eV/atom


def test_alignment_leaves_the_mean_and_the_forces_alone(ani, calibrated, frames):
    model, factors, _ = calibrated
    atoms = frames["600 K"][3].atoms
    raw, aligned = CommitteeUncertainty(ani).predict(atoms, ()), model.predict(atoms, ())
    assert aligned.energy == pytest.approx(raw.energy, abs=1e-8)
    np.testing.assert_allclose(aligned.forces, raw.forces, atol=1e-12)
    np.testing.assert_allclose(aligned.forces_var, factors["forces"].alpha ** 2 * raw.forces_var, rtol=1e-9)
    with pytest.raises(InputError, match="`align` must hold compositions that H2O can be combined from"):
        model.predict(Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]]), ())


def test_two_levels_of_theory_are_one_committee_only_when_aligned(ani, frames):
    sixteen, atoms = [*ani, *networks("ANI1ccx")], [frame.atoms for frame in frames["known"][:12]]
    with pytest.raises(InputError, match=r"`calculators` must share one zero of energy, got .* by 8\.\d+ eV"):
        CommitteeUncertainty(sixteen).predict(atoms[0], ())
    assert CommitteeUncertainty(sixteen, align=atoms[1:]).predict(atoms[0], ()).energy_std < 0.2


def test_a_run_of_it_logs_members_and_gives_averages(calibrated, frames, tmp_path):
    model, factors, _ = calibrated
    atoms = frames["known"][0].atoms.copy()
    atoms.calc = UQCalculator(model)
    rng = np.random.default_rng(0)
    dyn = Langevin(atoms, 0.5 * units.fs, temperature_K=300, friction=0.02 / units.fs, fixcm=False, rng=rng)
    observables = {"r": (lambda atoms: distance(atoms, 1, 5), "Å")}
    with UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300.0, observables=observables) as log:
        dyn.attach(log)
        dyn.run(60)
    run = read_log(tmp_path / "run.h5")
    assert run.attributes["alpha"] == factors["energy"].alpha
    assert run.attributes["model"] == "CommitteeUncertainty, aligned on C12H12N2O"
    np.testing.assert_allclose(run.energy_members.mean(axis=1), run.energy, atol=1e-9)
    np.testing.assert_allclose(run.energy_members.var(axis=1, ddof=1), run.energy_var, rtol=1e-6)
    result = reweight(
        run.observables["r"], energy_members=run.energy_members, energy_reference=run.energy, temperature_K=300.0
    )
    assert 1.3 < result.mean < 1.5
    assert 0 < result.std_total < 0.1


def test_the_example_runs(reference_data, tmp_path, monkeypatch, capsys):
    for kelvin in (300, 600):
        name = f"test_{kelvin}K.xyz.gz"
        lines = gzip.decompress((reference_data / "3bpa" / name).read_bytes()).splitlines(keepends=True)
        (tmp_path / name).write_bytes(gzip.compress(b"".join(lines[: 24 * 29])))
    monkeypatch.setattr(sys, "argv", ["ani_committee.py", str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples" / "ani_committee.py"), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 8
    assert [line.split(" = ")[0] for line in printed[:2]] == ["alpha of energy", "alpha of forces"]
    assert sum("±" in line for line in printed) == 4
