"""The two reference models of benchmarks/references.py: a constant and a pair potential."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_uq.errors import InputError
from ase_uq.structures.frames import Frame
from ase_uq.validation.residuals import residuals

# The scripts of benchmarks/ import each other by file name.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import references
from pair_potential import PairBasis, PairPotential, fit_pair_potential

CUTOFF = 4.0
STRENGTHS = {frozenset("C"): 7.0, frozenset("CO"): -3.0, frozenset("O"): 11.0}
SHIFTS = {"C": -1035.0, "O": -2042.5}


def cubic_frame(atoms):
    """Label by phi(r) = a (1 - r / cutoff)^3, in the span of the splines, with a plain loop over images."""
    energy = sum(SHIFTS[symbol] for symbol in atoms.symbols)
    forces = np.zeros((len(atoms), 3))
    images = [np.array(n) @ atoms.cell.array for n in itertools.product(range(-2, 3), repeat=3)]
    for (i, a), b in itertools.product(enumerate(atoms), atoms):
        strength = STRENGTHS[frozenset(a.symbol + b.symbol)]
        for image in images:
            vector = b.position + image - a.position
            r = np.linalg.norm(vector)
            if 1e-9 < r < CUTOFF:
                energy += 0.5 * strength * (1 - r / CUTOFF) ** 3
                forces[i] -= 3 * strength / CUTOFF * (1 - r / CUTOFF) ** 2 * vector / r
    return Frame(atoms, energy, forces, None, "")


def oxide(rng, scale=1.0):
    """Six atoms in a skewed cell smaller than twice the cut-off, composition at random."""
    cell = np.array([[3.7, 0.0, 0.0], [0.6, 4.3, 0.0], [-0.4, 0.7, 4.9]])
    grid = np.array(list(itertools.product((0.0, 0.5), (0.0, 0.5), (0.0, 0.5))))[:6]
    atoms = Atoms(rng.choice(["C", "O"], 6), scaled_positions=grid, cell=cell, pbc=True)
    atoms.symbols[:2] = "CO"
    atoms.positions += rng.uniform(-0.2, 0.2, (6, 3))
    atoms.set_cell(scale * cell, scale_atoms=True)
    return atoms


@pytest.fixture(scope="module")
def oxides():
    rng = np.random.default_rng(3)
    return [cubic_frame(oxide(rng)) for _ in range(12)]


def test_a_pair_potential_in_the_span_of_the_splines_is_recovered(oxides):
    pair = fit_pair_potential(oxides, cutoff=CUTOFF, n_functions=8, ridges=[1e-12])
    assert pair.shifts == pytest.approx(SHIFTS, abs=1e-5)
    # Larger by 6 %, so that no distance is below those of the fit.
    rng = np.random.default_rng(8)
    for frame in [cubic_frame(oxide(rng, scale=1.06)) for _ in range(4)]:
        prediction = pair.predict(frame.atoms)
        assert prediction.energy == pytest.approx(frame.energy, abs=1e-4, rel=0)
        np.testing.assert_allclose(prediction.forces, frame.forces, atol=1e-4)
        assert np.abs(frame.forces).max() > 0.1


def test_morse_forces_of_ase_are_learned_to_a_hundredth_of_their_size():
    rng = np.random.default_rng(0)

    def frame(displacement):
        atoms = bulk("Cu", cubic=True).repeat(2)
        atoms.positions += rng.normal(scale=displacement, size=atoms.positions.shape)
        atoms.calc = MorsePotential(epsilon=0.3, r0=2.6, rho0=4.0, rcut1=1.3, rcut2=1.9)
        return Frame(atoms.copy(), atoms.get_potential_energy(), atoms.get_forces(), None, "")

    pair = fit_pair_potential([frame(0.15) for _ in range(8)], cutoff=5.0, n_functions=30)
    test = residuals(pair, [frame(0.1) for _ in range(3)])
    labels = np.concatenate([f.forces for f in test.frames])
    assert np.sqrt(np.mean(test.force_error**2)) < 0.01 * np.sqrt(np.mean(labels**2))
    assert np.abs(test.energy_error / test.n_atoms).max() < 1e-3


@pytest.mark.parametrize("shortest", [0.8, 2.3], ids=["curved", "straight"])
def test_force_design_is_minus_the_gradient_of_the_energy_row(shortest):
    atoms = oxide(np.random.default_rng(5))
    basis = PairBasis((6, 8), (shortest, 1.0, shortest), CUTOFF, 6)
    _, forces = basis.design(atoms)
    assert forces.shape == (6, 3, 18)
    h = 1e-4
    for i, x in itertools.product(range(6), range(3)):
        rows = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[i, x] += sign * h
            rows.append(basis.design(moved)[0])
        np.testing.assert_allclose(forces[i, x], -(rows[0] - rows[1]) / (2 * h), atol=1e-6)


@given(k=st.integers(1, 7), distance=st.floats(0.5, 4.9))
def test_a_function_is_a_smooth_ramp(k, distance):
    """Closed form outside two grid intervals: k/K - x before, zero behind, also below the shortest distance."""
    basis = PairBasis((1,), (1.0,), 5.0, 8)
    value = basis.design(Atoms("H2", [[0, 0, 0], [0, 0, distance]]))[0][k]
    x = (distance - 1.0) / 4.0
    if x <= (k - 1) / 8:
        assert value == pytest.approx(k / 8 - x, abs=1e-12)
    elif x >= (k + 1) / 8:
        assert value == pytest.approx(0.0, abs=1e-12)
    else:
        assert -1e-12 <= value <= k / 8 - x + 1 / 8


def test_pairs_end_at_the_cutoff_with_zero_slope_and_curvature():
    basis = PairBasis((1,), (1.0,), 5.0, 8)

    def energy(below):
        return basis.design(Atoms("H2", [[0, 0, 0], [0, 0, 5.0 - below]]))[0][-1]

    assert energy(0.2) > 0
    assert energy(0.2) / energy(0.1) == pytest.approx(8.0, rel=1e-9)  # a pure cube
    assert energy(-0.1) == 0.0


def test_an_overwhelming_ridge_leaves_the_constant_model(oxides):
    pair = fit_pair_potential(oxides, cutoff=CUTOFF, n_functions=8, ridges=[1e12])
    constant = references.ConstantModel.fit(oxides)
    assert pair.shifts == pytest.approx(constant.shifts, abs=1e-6)
    np.testing.assert_allclose(pair.predict(oxides[0].atoms).forces, 0.0, atol=1e-6)


@settings(deadline=None, max_examples=10)
@given(carbon=st.floats(-500, 500), oxygen=st.floats(-500, 500))
def test_energies_of_atoms_go_to_the_shifts_alone(oxides, carbon, oxygen):
    added = {"C": carbon, "O": oxygen}
    moved = [
        Frame(f.atoms, f.energy + sum(added[symbol] for symbol in f.atoms.symbols), f.forces, None, "") for f in oxides
    ]
    before = fit_pair_potential(oxides, cutoff=CUTOFF, n_functions=4, ridges=[1e-6])
    after = fit_pair_potential(moved, cutoff=CUTOFF, n_functions=4, ridges=[1e-6])
    np.testing.assert_allclose(after.coefficients, before.coefficients, atol=1e-6)
    assert after.shifts == pytest.approx({z: before.shifts[z] + added[z] for z in added}, abs=1e-6)


def test_the_held_out_part_chooses_the_ridge(oxides):
    rng = np.random.default_rng(1)
    noise = [Frame(f.atoms, rng.normal(), rng.normal(size=(6, 3)), None, "") for f in oxides]
    weak, strong = 1e-10, 1e4
    chosen = [
        fit_pair_potential(frames, cutoff=CUTOFF, n_functions=8, ridges=[weak, strong]).ridge
        for frames in (oxides, noise)
    ]
    assert chosen == [weak, strong]


def test_elements_that_never_meet_get_no_force():
    rng = np.random.default_rng(2)
    frames = [
        Frame(Atoms(f"{symbol}2", [[0, 0, 0], [0, 0, r]]), r, np.array([[0, 0, 1.0], [0, 0, -1.0]]), None, "")
        for symbol in ("H", "N")
        for r in rng.uniform(0.9, 1.5, 6)
    ]
    pair = fit_pair_potential(frames, cutoff=3.0, n_functions=5)
    np.testing.assert_allclose(pair.predict(Atoms("HN", [[0, 0, 0], [0, 0, 1.2]])).forces, 0.0, atol=1e-12)
    # E = r is a straight line: force +1 on the lower atom, along +z.
    np.testing.assert_allclose(pair.predict(frames[0].atoms).forces[0], [0, 0, 1.0], atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ridges": [0.0]}, "`ridges`"),
        ({"ridges": []}, "`ridges`"),
        ({"n_functions": 0}, "`n_functions`"),
        ({"cutoff": 0.9}, "`cutoff`"),
    ],
)
def test_bad_options_are_named(oxides, change, message):
    with pytest.raises(InputError, match=message):
        fit_pair_potential(oxides, **{"cutoff": CUTOFF, **change})


def test_an_element_outside_the_fit_is_named():
    pair = PairPotential(PairBasis((1,), (0.7,), 3.0, 4), {"H": 0.0}, np.zeros(4), 1.0)
    with pytest.raises(InputError, match="Cu"):
        pair.predict(bulk("Cu"))


def test_errors_of_the_constant_model_in_closed_form():
    def frame(energy, force):
        return Frame(Atoms("H2", [[0, 0, 0], [0, 0, 1]]), energy, np.full((2, 3), force), None, "")

    model = references.ConstantModel.fit([frame(2.0, 9.0), frame(6.0, 9.0)])
    assert model.shifts == pytest.approx({"H": 2.0})
    scores = references.errors(model, [frame(4.0, 3.0), frame(10.0, -4.0)])
    assert scores["energy"] == pytest.approx({"mae": 1.5, "rmse": np.sqrt(9 / 2)})
    assert scores["forces"] == pytest.approx({"mae": 3.5, "rmse": np.sqrt(25 / 2)})


@pytest.fixture
def small_data(tmp_path, monkeypatch):
    """A data folder with the files that the script wants, all of rattled copper labelled by EMT."""
    rng = np.random.default_rng(4)
    for name in {name for data_set in references.DATA_SETS for name in (data_set.train, *data_set.tests)}:
        frames = []
        for _ in range(15):
            atoms = bulk("Cu", cubic=True)
            atoms.positions += rng.normal(scale=0.1, size=(4, 3))
            atoms.calc = EMT()
            atoms.info["REF_energy"] = atoms.get_potential_energy()
            atoms.arrays["REF_forces"] = atoms.get_forces()
            atoms.calc = None
            frames.append(atoms)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, frames, format="extxyz")
    monkeypatch.setenv("ASE_UQ_DATA", str(tmp_path))
    return tmp_path


def test_the_script_prints_and_writes_every_row(small_data, tmp_path, capsys):
    out = tmp_path / "rows.json"
    assert references.main(["--quick", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())
    lines = capsys.readouterr().out.splitlines()
    assert [(row["dataset"], row["test"]) for row in rows[::2]] == [
        ("3bpa", "test_300K"),
        ("3bpa", "test_600K"),
        ("mlearn Cu", "Cu_test"),
        ("ammonia", "20 % split"),
    ]
    assert len(lines) == 2 + len(rows)
    for line, row in zip(lines[2:], rows, strict=True):
        assert row["model"] in line
        assert line.endswith(f"{1e3 * row['forces']['rmse']:.2f}")
    for constant, pair in zip(rows[::2], rows[1::2], strict=True):
        assert pair["forces"]["rmse"] < 0.5 * constant["forces"]["rmse"]
    assert [(row["n_train"], row["n_test"]) for row in rows[::2]] == [(15, 10), (15, 10), (15, 10), (12, 3)]


def test_missing_data_are_one_line_and_exit_code_two(small_data, capsys):
    (small_data / "3bpa" / "test_600K.xyz.gz").unlink()
    assert references.main(["--quick"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "test_600K.xyz.gz" in captured.err
    assert "ASE_UQ_DATA" in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.data
def test_a_pair_potential_knows_more_of_ammonia_than_a_constant(reference_data):
    constant, pair = references.measure(references.DATA_SETS[2], reference_data, quick=True)
    assert (constant["model"], pair["model"]) == ("constant", "pair")
    assert pair["forces"]["rmse"] < 0.5 * constant["forces"]["rmse"]
    assert pair["energy"]["rmse"] < 0.5 * constant["energy"]["rmse"]
