"""A potential as data and back: any potential of ours in any ensemble, and nothing else."""

import json

import numpy as np
import pytest
import torch

from ase_uq.errors import InputError
from ase_uq.potentials import (
    DeepEnsemble,
    EquivariantPotential,
    ShallowEnsemble,
    evaluate,
    make_variational,
    sample_members,
)
from ase_uq.potentials.graph import build_graph
from ase_uq.potentials.stored import build, check_description, describe, from_old, kinds_that_can_be_stored
from tests.made.foreign import ForeignPotential
from tests.made.potentials import ensemble, potential, shallow
from tests.made.structures import copper

KINDS = {
    "equivariant": potential,
    "deep": lambda: ensemble(2),
    "shallow": lambda: shallow(3),
    "exact": lambda: ShallowEnsemble(potential(), 3, exact_spread=True),
    "noisy": lambda: make_variational(potential(), layers=("radial", "last"), initial_dropout=0.1),
    "drawn": lambda: sample_members(make_variational(potential(), initial_dropout=0.1), 3, seed=2),
    "patterns": lambda: sample_members(make_variational(potential(), layers={"edge": r"layers\.0\.radial$"}), 2),
    # The mean weights of several variational potentials are a deep ensemble like any other.
    "deep of noisy": lambda: DeepEnsemble([make_variational(potential(seed), seed=seed) for seed in range(2)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_built_from_a_description_is_the_same_after_a_trip_through_json(kind):
    made = KINDS[kind]()
    twin = build(json.loads(json.dumps(describe(made))))
    twin.load_state_dict(made.state_dict())
    assert type(twin) is type(made)
    assert describe(twin) == describe(made)
    graph = build_graph(copper(), made.cutoff)
    for a, b in zip(_numbers(made, graph), _numbers(twin, graph), strict=True):
        assert torch.equal(a, b)


def _numbers(made, graph):
    found = evaluate(made, graph, stress=True)
    return found.energies, found.forces, found.stresses


def test_descriptions_name_their_parts():
    described = describe(DeepEnsemble([potential(), potential(1)]))
    assert described["kind"] == "DeepEnsemble"
    assert [part["kind"] for part in described["config"]["members"]] == ["EquivariantPotential"] * 2
    assert [part["config"]["seed"] for part in described["config"]["members"]] == [0, 1]


class Subclass(EquivariantPotential):
    """What it does with the same arguments is its own affair."""


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (ForeignPotential, "ForeignPotential"),
        (lambda: DeepEnsemble([ForeignPotential(seed=seed) for seed in range(2)]), "ForeignPotential"),
        (lambda: sample_members(make_variational(ForeignPotential(), layers={"node": "mixer"}), 2), "ForeignPotential"),
        (lambda: Subclass(["Cu"], 3.0, channels=4), "Subclass"),
        (lambda: ShallowEnsemble(Subclass(["Cu"], 3.0, channels=4), 2), "Subclass"),
    ],
)
def test_what_is_not_ours_is_refused_by_name(make, name):
    with pytest.raises(InputError, match=f"`potential` must be made of .*{name} is none.*keep the `state_dict"):
        describe(make())


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("noisy", "deep of noisy", "patterns")])
def test_a_copy_for_inference_without_its_networks_is_refused(kind):
    made = KINDS[kind]()
    assert describe(made.for_inference()) == describe(made)  # in double precision nothing is gone
    single = {"dtype": "float32"}
    for gone in (potential(**single), ensemble(2, **single), shallow(3, **single)):
        with pytest.raises(InputError, match="must be what its arguments construct, .* store the original"):
            describe(gone.for_inference())


@pytest.mark.parametrize(
    ("description", "rule"),
    [
        ({"kind": "Module", "config": {}}, "must be one of EquivariantPotential, .*, got 'Module'"),
        ({"kind": "DeepEnsemble"}, "must hold exactly kind and config"),
        ("DeepEnsemble", "must hold exactly kind and config"),
        ({"kind": "DeepEnsemble", "config": {"potentials": []}}, "arguments of a DeepEnsemble must be those of this"),
        ({"kind": "EquivariantPotential", "config": {"elements": ["H"], "spin": 1}}, r"must be those of .*'spin'"),
        ({"kind": "EquivariantPotential", "config": {"elements": ["H"], "l_max": 7}}, "`l_max` must be 0, 1 or 2"),
    ],
)
def test_descriptions_that_nothing_can_be_built_from(description, rule):
    with pytest.raises(InputError, match=rule):
        build(description)


def test_configurations_of_format_1_name_no_parts():
    config = potential().config()
    graph = build_graph(copper(), 3.5)
    for name, old, new in (
        ("EquivariantPotential", config, EquivariantPotential(**config)),
        ("DeepEnsemble", {"members": [config, config]}, DeepEnsemble([EquivariantPotential(**config)] * 2)),
        ("ShallowEnsemble", {"potential": config, "n_members": 3}, ShallowEnsemble(EquivariantPotential(**config), 3)),
    ):
        found = from_old(name, old)
        found.load_state_dict(new.state_dict())
        np.testing.assert_array_equal(found.energies(graph).detach(), new.energies(graph).detach())
    noisy = make_variational(potential(), initial_dropout=0.1)
    old = {"potential": {**noisy.config(), "potential": config}, "n_members": 4, "seed": 5}
    assert describe(from_old("VariationalEnsemble", old)) == describe(sample_members(noisy, 4, seed=5))
    with pytest.raises(InputError, match="must be one of"):
        from_old("Module", {})


def test_every_class_that_can_be_stored_can_be_described():
    assert {type(make()) for make in KINDS.values()} == set(kinds_that_can_be_stored())


def test_more_draws_than_the_file_has_numbers_for_are_refused():
    made = sample_members(make_variational(potential(), initial_dropout=0.1), 3, seed=2)
    numbers = sum(value.numel() for value in made.state_dict().values())
    described = describe(made)
    check_description(described, numbers=numbers)
    described["config"]["n_members"] = 1000
    with pytest.raises(InputError, match="needs at least .* numbers"):
        check_description(described, numbers=numbers + 1000)
