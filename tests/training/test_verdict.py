"""What is said at the end of a training: of members, energies and stresses that went wrong, and of no others."""

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from ase_uq.potentials import DeepEnsemble, EquivariantPotential, evaluate
from ase_uq.potentials.graph import build_graph
from ase_uq.training import Frame
from ase_uq.training.verdict import achieved, training_warnings

SMALL = {"cutoff": 3.0, "channels": 4, "radial_width": 8, "n_layers": 1, "l_max": 0, "dtype": "float64"}


def potential(seed=0):
    made = EquivariantPotential(["Cu"], seed=seed, **SMALL)
    made.set_reference(shifts=[-3.0], scale=2.0, mean_neighbours=12.0)
    return made


def labelled(truth, n=12, seed=0):
    """Frames whose labels are those of a potential."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell.array * rng.uniform(0.95, 1.05), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.15, size=(4, 3))
        found = evaluate(truth, build_graph(atoms, truth.cutoff), stress=True)
        stress = found.stresses[0, 0].numpy()
        frames.append(Frame(atoms, found.energies.item(), found.forces[0].numpy(), stress, ""))
    return frames


def near(truth, error):
    """The truth with all energies (less their constant), forces and stresses too large by a relative error."""
    made = potential()
    made.load_state_dict(truth.state_dict())
    made.scale *= 1.0 + error
    graph = build_graph(bulk("Cu", cubic=True), truth.cutoff)
    made.shifts -= (made.energies(graph) - truth.energies(graph)).item() / 4
    return made


def committee(truth, *errors):
    return DeepEnsemble([near(truth, error) for error in errors]).requires_grad_(False)


@pytest.fixture(scope="module")
def truth():
    return potential(seed=3).requires_grad_(False)


@pytest.fixture(scope="module")
def frames(truth):
    return labelled(truth)


def good(truth):
    return committee(truth, 0.05, -0.08, 0.1, -0.04)


def test_errors_by_hand(truth, frames):
    ensemble = committee(truth, 0.1, -0.3)
    found = achieved(ensemble, frames, frames[:5])
    graphs = [build_graph(frame.atoms, truth.cutoff) for frame in frames[:5]]
    errors = [evaluate(ensemble, g).forces.numpy() - frame.forces for g, frame in zip(graphs, frames, strict=False)]
    joined = np.concatenate(errors, axis=1)
    assert found.member_forces == pytest.approx(np.sqrt((joined**2).mean(axis=(1, 2))))
    assert found.forces == pytest.approx(np.sqrt((joined.mean(axis=0) ** 2).mean()))
    energies = [ensemble.energies(g).mean().item() - frame.energy for g, frame in zip(graphs, frames, strict=False)]
    assert found.energy == pytest.approx(np.sqrt(np.mean(np.square(energies))) / 4)
    labels = np.array([frame.energy / 4 for frame in frames])
    assert found.energy_of_constants == pytest.approx(np.sqrt(np.mean((labels[:5] - labels.mean()) ** 2)), rel=1e-6)


def test_a_good_training_says_nothing(truth, frames):
    assert training_warnings(good(truth), frames, frames) == ()
    bare = [replace(frame, stress=None) for frame in frames]
    assert training_warnings(good(truth), bare, bare) == ()


@pytest.mark.parametrize("bad", [0, 3])
def test_a_member_far_worse_is_named(truth, frames, bad):
    errors = [0.05, -0.08, 0.1, -0.04]
    errors[bad] = 0.3
    (said,) = training_warnings(committee(truth, *errors), frames, frames)
    assert said.startswith(f"member {bad} is far worse than the others, forces off by")


@pytest.mark.parametrize("offset", [0.2, -3.0])
def test_energies_left_behind_are_said(truth, frames, offset):
    moved = [replace(frame, energy=frame.energy + 4 * offset) for frame in frames]
    (said,) = training_warnings(good(truth), frames, moved)
    assert said.startswith("energies are left behind, off by")
    assert f"(mean {-1e3 * offset:+.3g})"[:6] in said
    assert "`energy_weight`" in said


@pytest.mark.parametrize(
    ("error", "offset", "behind"), [(0.35, 0.004, True), (0.35, -0.0015, False), (0.7, 0.004, False)]
)
def test_half_learnt_forces_allow_energies_as_good_as_constants(truth, frames, error, offset, behind):
    """Constants alone are off by 2.3 meV per atom here."""
    moved = [replace(frame, energy=frame.energy + 4 * offset) for frame in frames]
    said = training_warnings(committee(truth, error, error), frames, moved)
    assert any(text.startswith("energies are left behind") for text in said) is behind
    assert any(text.startswith("forces are hardly learnt, off by") for text in said) is (error > 0.5)


def test_energies_in_another_unit_are_said(truth, frames):
    """Labels of energies that do not belong to the forces: a training follows the forces."""
    doubled = [replace(frame, energy=27.2 * frame.energy) for frame in frames]
    (said,) = training_warnings(good(truth), doubled, doubled)
    assert "of one method and unit" in said


@pytest.mark.parametrize(("factor", "sign"), [(-1.0, True), (-1602.0, True), (160.2, False)])
def test_stresses_of_another_sign_or_unit_are_said(truth, frames, factor, sign):
    wrong = [replace(frame, stress=factor * frame.stress) for frame in frames]
    (said,) = training_warnings(good(truth), wrong, wrong)
    assert said.startswith("stresses are not learnt, off by")
    assert ("of the other sign" in said) is sign


def test_an_untrained_model_is_not_blamed_for_its_labels(truth, frames):
    """Where forces are not learnt either, sentences about energies and stresses would mislead."""
    untrained = DeepEnsemble([potential(seed) for seed in (11, 12)]).requires_grad_(False)
    found = achieved(untrained, frames, frames)
    assert found.forces > 0.5 * found.forces_of_zero
    said = [text for text in training_warnings(untrained, frames, frames) if not text.startswith("member")]
    assert [text.split(",")[0] for text in said] == ["forces are hardly learnt"]
