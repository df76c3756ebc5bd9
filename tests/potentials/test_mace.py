"""BLIP on models of MACE. Runs where mace-torch is installed, which wants an environment of its own, see the README."""

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mace", reason="needs mace-torch, in an environment of its own: see the README")

import torch
from ase import units
from ase.build import bulk
from ase.io import write
from ase.md.verlet import VelocityVerlet
from e3nn import o3
from mace import modules
from mace.calculators import MACECalculator

from ase_uq import UQCalculator
from ase_uq.errors import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import MACEPotential, evaluate, make_variational, sample_members
from ase_uq.potentials.graph import build_graph
from ase_uq.testing import assert_potential, assert_uncertainty_model
from ase_uq.training import FitSettings
from ase_uq.training.variational import train_variational
from tests.made.alloys import labelled
from tests.made.structures import ethanol, skewed, water

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.mace


@pytest.fixture
def double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def small(numbers=(1, 6, 8, 29), seed=0):
    torch.manual_seed(seed)
    return modules.ScaleShiftMACE(
        r_max=4.0,
        num_bessel=6,
        num_polynomial_cutoff=5,
        max_ell=2,
        interaction_cls=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        interaction_cls_first=modules.interaction_classes["RealAgnosticResidualInteractionBlock"],
        num_interactions=2,
        num_elements=len(numbers),
        hidden_irreps=o3.Irreps("8x0e + 8x1o"),
        MLP_irreps=o3.Irreps("8x0e"),
        atomic_energies=-np.arange(1.0, len(numbers) + 1),
        avg_num_neighbors=10.0,
        atomic_numbers=list(numbers),
        correlation=2,
        gate=torch.nn.functional.silu,
        atomic_inter_scale=0.7,
        atomic_inter_shift=0.1,
    )


@pytest.mark.parametrize("atoms", [ethanol(), water(), skewed(), bulk("Cu")], ids=["C2H6O", "H2O", "skewed", "Cu"])
def test_the_potential_is_what_mace_computes(double, atoms, tmp_path):
    model = small()
    torch.save(model, tmp_path / "model.pt")
    atoms.calc = MACECalculator(model_paths=str(tmp_path / "model.pt"), device="cpu", default_dtype="float64")
    found = evaluate(MACEPotential(model), build_graph(atoms, 4.0), stress=True)
    assert found.energies.item() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    np.testing.assert_allclose(found.forces[0], atoms.get_forces(), atol=1e-8)
    if atoms.pbc.all():
        np.testing.assert_allclose(found.stresses[0, 0], atoms.get_stress(), atol=1e-9)


@pytest.mark.parametrize("layers", [("readout",), ("radial",), ("radial", "readout")])
def test_every_draw_is_a_potential(double, layers):
    model = small()
    variational = make_variational(model, layers=layers, initial_dropout=0.05)
    graph = build_graph(ethanol(), 4.0)
    torch.testing.assert_close(
        variational.energies(graph), MACEPotential(model).energies(graph), rtol=1e-10, atol=1e-10
    )
    ensemble = sample_members(variational, 3)
    assert ensemble.energies(graph).std() > 1e-4
    assert_potential(ensemble, graph)
    assert_uncertainty_model(MemberUncertainty(ensemble), skewed())


def test_the_mean_of_draws_conserves_energy(double):
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.rattle(0.05, seed=0)
    atoms.calc = UQCalculator(MemberUncertainty(sample_members(make_variational(small()), 3)))
    atoms.set_momenta(np.random.default_rng(0).normal(size=(4, 3)))
    totals = []
    dyn = VelocityVerlet(atoms, 1.0 * units.fs)
    dyn.attach(lambda: totals.append(atoms.get_total_energy()))
    dyn.run(100)
    assert np.ptp(totals) < 5e-3 * atoms.get_kinetic_energy()


def test_it_is_fine_tuned(double):
    frames = labelled(24, 0)
    numbers = sorted({int(number) for frame in frames for number in frame.atoms.numbers})
    potential = make_variational(small(numbers), initial_dropout=5e-5, max_dropout=0.1)
    records = []
    ensemble = train_variational(
        frames[:16],
        frames[16:],
        n_members=3,
        settings=FitSettings(
            epochs=6, batch_size=4, learning_rate=0.02, energy_weight=0.01, ema=0.5
        ),  # its shifts are not fitted
        start=potential,
        kl_weight=1e-4,
        on_epoch=lambda part, record: records.append(record),
    )
    assert records[-1].forces_rmse < 0.9 * records[0].forces_rmse
    assert set(records[-1].terms) == {"errors", "divergence", "divergence_around", "dropout", "dropout_around"}
    assert MemberUncertainty(ensemble).predict(frames[0].atoms, ["energy"]).energy_var > 0


def test_a_module_that_is_no_mace_is_refused():
    with pytest.raises(InputError, match="`model` must be a MACE model, got Linear"):
        MACEPotential(torch.nn.Linear(1, 1))


@pytest.mark.data
def test_the_example_runs_on_a_model_trained_on_3bpa(reference_data, tmp_path, monkeypatch, capsys):
    from ase.io import read

    frames = read(str(reference_data / "3bpa" / "train_300K.xyz.gz"), ":60")
    write(tmp_path / "frames.xyz", frames)
    script = [sys.executable, str(ROOT / "benchmarks" / "mace_peer.py"), "train", str(tmp_path / "frames.xyz")]
    options = ["--minutes", "0.15", "--channels", "8", "--out", str(tmp_path / "mace.pt")]
    subprocess.run([*script, *options], check=True, capture_output=True)
    monkeypatch.setattr(sys, "argv", ["blip_of_mace.py", str(tmp_path / "mace.pt"), str(tmp_path / "frames.xyz")])
    runpy.run_path(str(ROOT / "examples" / "blip_of_mace.py"), run_name="__main__")
    printed = capsys.readouterr().out.splitlines()
    assert "alpha" in printed[0]
    assert sum("±" in line for line in printed) == 12
