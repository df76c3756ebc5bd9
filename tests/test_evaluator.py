"""Device, memory and machine code change how members are evaluated, not what comes out."""

import numpy as np
import pytest
import torch

from ase_uq import InputError
from ase_uq.graph import build_graph
from ase_uq.members import MemberUncertainty
from ase_uq.potentials import evaluate
from ase_uq.potentials.memory import GIGABYTE, MemoryCap
from tests.potentials import ensemble, potential, shallow
from tests.structures import copper, rattled, water

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
        assert model._evaluator.potential._group_size(build_graph(atoms[0], made.cutoff)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_structure_that_is_too_large_is_refused_in_one_sentence(kind):
    model = MemberUncertainty(KINDS[kind](), memory_limit=1e-6)
    with pytest.raises(InputError, match=r"`memory_limit` must be at least .* GB for one member on these 4 atoms, got"):
        model.predict(copper())
    with pytest.raises(InputError, match="must be positive"):
        MemberUncertainty(KINDS[kind](), memory_limit=0.0)


@pytest.mark.parametrize("options", [{}, {"hidden_l_max": 1}, {"dtype": "float32"}])
def test_the_estimate_covers_what_the_backward_pass_keeps(options):
    made = potential(**options).requires_grad_(False).for_inference()
    cap = MemoryCap.of(made, 1.0)
    for atoms in (copper().repeat(2), water(), copper().repeat((3, 1, 1))):
        graph = build_graph(atoms, made.cutoff)
        kept = {}

        def count(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        graph.positions.requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            energies = made.energies(graph)
        weights = {each.untyped_storage().data_ptr() for each in (*made.parameters(), *made.buffers())}
        used = sum(size for where, size in kept.items() if where not in weights)
        assert used < cap.needed(graph) < 3.0 * used
        del energies


def test_a_gpu_that_is_not_there():
    name = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(InputError, match="needs a GPU that torch can see"):
        MemberUncertainty(ensemble(), device=name)
    with pytest.raises(InputError, match="`device` must be cpu, cuda or cuda:0, got 'gpu'"):
        MemberUncertainty(ensemble(), device="gpu")


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
