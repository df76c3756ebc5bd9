"""Device, memory and machine code change how members are evaluated, not what comes out."""

import numpy as np
import pytest
import torch
from ase import Atoms

from ase_uq import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import evaluate
from ase_uq.potentials.graph import build_graph, collate
from ase_uq.potentials.memory import GIGABYTE, MemoryCap
from tests.made.potentials import ensemble, potential, shallow
from tests.made.structures import copper, rattled, water

KINDS = {"deep": ensemble, "shallow": shallow}


@pytest.mark.parametrize("kind", KINDS)
def test_a_memory_limit_changes_no_number(kind):
    made = KINDS[kind]()
    atoms = [rattled(copper(), seed) for seed in range(4)]
    free = MemberUncertainty(made).predict_many(atoms)
    one = made.members[0] if kind == "deep" else made
    # Room for two structures, or two members of one of them.
    needed = MemoryCap.of(one, 1.0).needed(build_graph(atoms[0], made.cutoff))
    model = MemberUncertainty(made, memory_limit=2.5 * needed / GIGABYTE)
    assert [len(part) for part in model._evaluator.parts([build_graph(a, made.cutoff) for a in atoms])] == [2, 2]
    for capped, expected in zip(model.predict_many(atoms), free, strict=True):
        np.testing.assert_allclose(capped.energy_members, expected.energy_members, rtol=1e-12)
        np.testing.assert_allclose(capped.forces_members, expected.forces_members, atol=1e-11)
    if kind == "deep":
        graph = build_graph(atoms[0], made.cutoff)
        parts = made.requires_grad_(False).parts(graph, at_once=model._evaluator.memory.members_at_once(graph))
        assert [part.n_copies for part in parts] == [2, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_structure_that_is_too_large_is_refused_in_one_sentence(kind):
    model = MemberUncertainty(KINDS[kind](), memory_limit=1e-6)
    with pytest.raises(InputError, match=r"`memory_limit` must be at least .* GB for one member on these 4 atoms, got"):
        model.predict(copper())
    for limit in (0.0, "4", float("nan")):
        with pytest.raises(InputError, match="must be a positive number of GB"):
            MemberUncertainty(KINDS[kind](), memory_limit=limit)


@pytest.mark.parametrize("options", [{}, {"hidden_l_max": 1}, {"dtype": "float32"}])
def test_the_estimate_covers_what_the_backward_pass_keeps(options):
    made = potential(**options).requires_grad_(False).for_inference()
    cap = MemoryCap.of(made, 1.0)
    lonely = build_graph(Atoms("Cu50", positions=[[10.0 * i, 0.0, 0.0] for i in range(50)]), made.cutoff)
    crystal = build_graph(copper().repeat(2), made.cutoff)
    # Most rows of the last are empty.
    for graph in (crystal, build_graph(water(), made.cutoff), lonely, collate([crystal, lonely])):
        kept = {}

        def count(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        graph.positions.requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            energies = made.energies(graph)
        weights = {each.untyped_storage().data_ptr() for each in (*made.parameters(), *made.buffers())}
        used = sum(size for where, size in kept.items() if where not in weights)
        assert used < cap.needed(graph) < 2.5 * used
        del energies


def test_a_limit_belongs_to_its_model():
    made = ensemble()
    with pytest.raises(InputError, match="memory_limit"):
        MemberUncertainty(made, memory_limit=1e-6).predict(copper())
    MemberUncertainty(made).predict(copper())


def test_a_limit_needs_a_potential_that_can_be_measured():
    class Foreign:
        cutoff, n_members = 3.0, 2

        def energies(self, graph):
            return torch.zeros(2, graph.n_structures)

    with pytest.raises(InputError, match="`memory_limit` needs a torch module with `elements`, Foreign is not"):
        MemberUncertainty(Foreign(), memory_limit=1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_that_change_later_change_neither_numbers_nor_hash(kind, dtype):
    made, other = KINDS[kind](dtype=dtype), KINDS[kind](dtype=dtype, channels=8)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    model = MemberUncertainty(made)
    energy, name = model.predict(copper()).energy, model.model_hash
    made.load_state_dict(other.state_dict())
    assert model.predict(copper()).energy == energy
    assert model.model_hash == name
    assert MemberUncertainty(made).model_hash != name
    assert MemberUncertainty(made).predict(copper()).energy != pytest.approx(energy, rel=1e-4)


def test_a_calibrated_model_is_evaluated_as_it_was():
    model = MemberUncertainty(ensemble(), memory_limit=1.0, skin=0.3)
    twin = model.calibrated(2.0, {"from": "somewhere"})
    assert twin._evaluator is model._evaluator
    assert (twin.alpha, model.alpha) == (2.0, 1.0)
    assert twin.model_hash == MemberUncertainty(model.potential, alpha=2.0).model_hash != model.model_hash
    with pytest.raises(InputError, match="`alpha`"):
        model.calibrated(-1.0, {})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_atoms_on_top_of_each_other_have_no_energy_in_any_precision(dtype):
    stacked = Atoms("H3", positions=[[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(InputError, match="overlapping atoms"):
        MemberUncertainty(shallow(dtype=dtype)).predict(stacked)


def test_a_gpu_that_is_not_there():
    name = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(InputError, match="needs a GPU that torch can see"):
        MemberUncertainty(ensemble(), device=name)
    for other in ("gpu", "mps", "meta", None):
        with pytest.raises(InputError, match="`device` must be cpu, cuda or cuda:0, got"):
            MemberUncertainty(ensemble(), device=other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_gpu_gives_the_same(kind, dtype):
    made = KINDS[kind](dtype=dtype)
    here, there = MemberUncertainty(made), MemberUncertainty(made, device="cuda")
    digits = 1e-9 if dtype == "float64" else 2e-5
    for atoms in (copper(), water()):
        slow, quick = here.predict(atoms), there.predict(atoms)
        np.testing.assert_allclose(quick.energy_members, slow.energy_members, rtol=digits)
        np.testing.assert_allclose(quick.forces_members, slow.forces_members, atol=digits)
    assert next(made.parameters()).device.type == "cpu"
    graph = build_graph(copper(), made.cutoff)
    assert evaluate(made, graph).forces.device.type == "cpu"
