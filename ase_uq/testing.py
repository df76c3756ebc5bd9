"""Checks that authors of new models and potentials can run on their own work.

Each function raises `AssertionError` with a sentence that says what does not hold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ase_uq.potentials.base import Evaluation, Potential, evaluate
from ase_uq.potentials.graph import Graph, collate
from ase_uq.structures.checks import is_periodic
from ase_uq.uncertainty.prediction import Prediction, UncertaintyModel


def assert_uncertainty_model(
    model: UncertaintyModel, atoms: Atoms, *, step: float = 1e-4, tolerance: float = 1e-5
) -> None:
    """Check that a model obeys the protocol on a structure.

    Shapes and types; some uncertainty, finite and not negative; moments that match the members (divisor M-1), where it
    has members; forces and stress that are derivatives of the energy; the same answer twice; the structure left alone.

    Parameters
    ----------
    model
        What is checked.
    atoms
        A structure with small but not vanishing forces; it is not changed.
    step
        Å, of the central differences.
    tolerance
        Of derivatives, relative to the largest.

    Raises
    ------
    AssertionError
        With the first thing that does not hold.
    """
    before = atoms.copy()
    prediction = model.predict(atoms, ["energy", "forces", "stress"])
    assert isinstance(prediction, Prediction), f"predict must return a Prediction, got {type(prediction).__name__}"
    assert atoms == before, "predict must not change the structure"
    _check_shapes(prediction, atoms)
    _check_uncertainty(prediction)
    _check_moments(prediction)
    again = model.predict(atoms.copy(), ["energy"])
    assert again.energy == prediction.energy, "two predictions of one structure must be equal: members must be fixed"
    _check_forces(model, atoms, prediction, step, tolerance)
    if prediction.stress is not None:
        _check_stress(model, atoms, prediction.stress, step, tolerance)


def assert_potential(potential: Potential, graph: Graph, *, step: float = 1e-4, tolerance: float = 1e-5) -> None:
    """Check that a potential obeys the protocol on a graph, best in float64.

    Shape and type of the energies; invariance under rotation, translation and permutation of the atoms; the same
    numbers alone and in a batch; forces of every member against central differences.

    Parameters
    ----------
    potential
        What is checked.
    graph
        One structure.
    step
        Å, of the central differences.
    tolerance
        Relative to the largest force, and to the spread of energies among the atoms' displacements.

    Raises
    ------
    AssertionError
        With the first thing that does not hold.
    """
    evaluation = evaluate(potential, graph)
    energies, forces = evaluation.energies, evaluation.forces
    n_atoms = len(graph.positions)
    assert energies.shape == (potential.n_members, 1), f"energies must be (M, S), got {tuple(energies.shape)}"
    assert energies.dtype == torch.float64, f"energies must be float64, got {energies.dtype}"
    assert forces.shape == (potential.n_members, n_atoms, 3), f"forces must be (M, N, 3), got {tuple(forces.shape)}"
    scale = max(float(forces.abs().max()), 1e-3)
    for name, moved, order in _symmetric_images(graph):
        other = evaluate(potential, moved)
        _assert_close(other.energies, energies, tolerance * scale, f"energies must not change under a {name}")
        turned = other.forces.norm(dim=-1)[:, order] - forces.norm(dim=-1)
        assert float(turned.abs().max()) <= tolerance * scale, f"force norms must not change under a {name}"
    both: Evaluation = evaluate(potential, collate([graph, graph]))
    _assert_close(both.energies[:, 1:], energies, tolerance * scale, "energies must be the same alone and in a batch")
    for atom, axis in ((0, 0), (n_atoms - 1, 2)):
        shifted = []
        for sign in (1.0, -1.0):
            positions = graph.positions.clone()
            positions[atom, axis] += sign * step
            shifted.append(potential.energies(replace(graph, positions=positions)).detach())
        numerical = -(shifted[0] - shifted[1])[:, 0] / (2 * step)
        _assert_close(
            forces[:, atom, axis], numerical, tolerance * scale, "forces must be minus the gradient of the energy"
        )


def _assert_close(a: torch.Tensor, b: torch.Tensor, tolerance: float, rule: str) -> None:
    worst = float((a - b).abs().max())
    assert worst <= tolerance, f"{rule}; they differ by {worst:.3g} (allowed {tolerance:.3g})"


def _symmetric_images(graph: Graph) -> list[tuple[str, Graph, torch.Tensor]]:
    identity = torch.arange(len(graph.positions))
    matrix = torch.from_numpy(Rotation.from_euler("xyz", [0.3, 1.1, -0.7]).as_matrix())
    rotated = replace(graph, positions=graph.positions @ matrix.T, cells=graph.cells @ matrix.T)
    offset = torch.tensor([0.7, -1.3, 2.1], dtype=torch.float64)
    translated = replace(graph, positions=graph.positions + offset)
    order = torch.flip(identity, [0])
    permuted = replace(
        graph,
        positions=graph.positions[order],
        numbers=graph.numbers[order],
        structures=graph.structures[order],
        senders=order[graph.senders],
        receivers=order[graph.receivers],
        slots=graph.slots + (order[graph.receivers] - graph.receivers) * len(graph.columns),
    )
    return [("rotation", rotated, identity), ("translation", translated, identity), ("permutation", permuted, order)]


def _check_shapes(prediction: Prediction, atoms: Atoms) -> None:
    n = len(atoms)
    assert type(prediction.energy) is float, f"energy must be a Python float, got {type(prediction.energy).__name__}"
    members = prediction.n_members or 0
    expected: dict[str, tuple[int, ...]] = {
        "forces": (n, 3),
        "stress": (6,),
        "energy_members": (members,),
        "forces_members": (members, n, 3),
        "stress_members": (members, 6),
        "forces_var": (n, 3),
        "stress_var": (6,),
    }
    for part in ("epistemic", "aleatoric"):
        expected |= {f"forces_var_{part}": (n, 3), f"stress_var_{part}": (6,)}
    for name, shape in expected.items():
        value: Any = getattr(prediction, name)
        if value is None:
            assert name != "forces", "forces must be there"
            continue
        assert isinstance(value, np.ndarray), f"{name} must be an array, got {type(value).__name__}"
        assert value.dtype == np.float64, f"{name} must be float64, got {value.dtype}"
        assert value.shape == shape, f"{name} must have shape {shape}, got {value.shape}"
    if prediction.stress is not None:
        assert is_periodic(atoms), "stress must be None without a periodic cell"


def _check_uncertainty(prediction: Prediction) -> None:
    parts = [f"{name}_var_{part}" for name in ("energy", "forces", "stress") for part in ("epistemic", "aleatoric")]
    given = {name: getattr(prediction, name) for name in parts if getattr(prediction, name) is not None}
    assert given, "a prediction must have a variance of energy, forces or stress, this one has none"
    for name, variance in given.items():
        assert np.isfinite(variance).all(), f"{name} must be finite"
        assert np.all(np.asarray(variance) >= 0.0), f"{name} must not be negative"
    for name in ("energy_var_epistemic", "energy_var_aleatoric"):
        assert isinstance(given.get(name, 0.0), float), f"{name} must be a float, got {type(given[name]).__name__}"
    if prediction.n_members is None:
        for name in ("forces_members", "stress_members", "mean_share"):
            assert getattr(prediction, name) is None, f"{name} must be None without energy_members"


def _check_moments(prediction: Prediction) -> None:
    for name in ("energy", "forces", "stress"):
        members, mean = getattr(prediction, f"{name}_members"), getattr(prediction, name)
        variance = getattr(prediction, f"{name}_var_epistemic")
        if members is None:
            continue
        assert variance is not None, f"{name}_var_epistemic must be there where {name}_members are"
        size = max(1.0, float(np.abs(members).max()))
        assert np.allclose(members.mean(axis=0), mean, rtol=0, atol=1e-10 * size), f"{name} must be the member mean"
        # A member has one factor, its energy's; the variance of its forces may have another.
        factor = {"energy": prediction.alpha, "forces": prediction.alpha_forces, "stress": prediction.alpha_stress}[
            name
        ]
        spread = (factor / prediction.alpha) ** 2 * members.var(axis=0, ddof=1)
        assert np.allclose(spread, variance, rtol=1e-6, atol=1e-12 * size**2), f"{name}_var must have divisor M-1"


def _check_forces(model: UncertaintyModel, atoms: Atoms, prediction: Prediction, step: float, tolerance: float) -> None:
    scale = max(float(np.abs(prediction.forces).max()), 1e-3)
    for atom, axis in ((0, 0), (len(atoms) - 1, 1), (len(atoms) // 2, 2)):
        energies = []
        for sign in (1.0, -1.0):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            energies.append(model.predict(moved, ["energy"]).energy)
        numerical = -(energies[0] - energies[1]) / (2 * step)
        error = abs(numerical - prediction.forces[atom, axis])
        assert error <= tolerance * scale, (
            f"forces must be minus the gradient of energy; component ({atom}, {axis}) is off by {error:.3g} eV/Å"
        )


def _check_stress(
    model: UncertaintyModel, atoms: Atoms, stress: NDArray[np.float64], step: float, tolerance: float
) -> None:
    scale = max(float(np.abs(stress).max()), 1e-4)
    for voigt, (i, j) in enumerate(((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))):
        energies = []
        for sign in (1.0, -1.0):
            strain = np.eye(3)
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ strain, scale_atoms=True)
            energies.append(model.predict(moved, ["energy"]).energy)
        numerical = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
        error = abs(numerical - stress[voigt])
        assert error <= tolerance * scale, (
            f"stress must be the strain derivative over the volume; component {voigt} is off by {error:.3g} eV/Å^3"
        )
