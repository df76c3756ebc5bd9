"""Noise on the layers of potentials that are not ours."""

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.spatial.transform import Rotation

from ase_uq import UQCalculator, save
from ase_uq.errors import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import evaluate, kl_divergence, make_variational, sample_members
from ase_uq.potentials.graph import build_graph
from ase_uq.potentials.memory import MemoryCap
from ase_uq.potentials.variational.layers import Noise, kl_of_rate
from ase_uq.potentials.variational.placement import NoisyLinear
from ase_uq.testing import assert_uncertainty_model
from ase_uq.training import FitSettings
from ase_uq.training.variational import train_variational
from tests.made.alloys import labelled
from tests.made.foreign import ForeignPotential
from tests.made.structures import ethanol

EVERYWHERE = {"node": r"^(mixer|readout|last)", "edge": r"^radial"}
PARTS = [{"node": "readout.0"}, {"node": "last"}, {"node": "mixer"}, {"edge": "radial"}, EVERYWHERE]


@pytest.mark.parametrize("layers", PARTS, ids=lambda layers: "+".join(layers.values()))
def test_a_foreign_potential_keeps_its_weights_and_gets_noise(layers):
    plain, graph = ForeignPotential(), build_graph(ethanol(), 4.0)
    variational = make_variational(plain, layers=layers, initial_dropout=0.1)
    torch.testing.assert_close(variational.energies(graph), plain.energies(graph), rtol=1e-12, atol=1e-12)
    drawn = sample_members(variational, 6).energies(graph)
    assert drawn.std() > 1e-4
    assert abs(drawn.mean() - plain.energies(graph)) < 3 * drawn.std()


@pytest.mark.parametrize("layers", PARTS, ids=lambda layers: "+".join(layers.values()))
def test_draws_are_exact_equivariant_functions_of_the_positions(layers):
    ensemble = sample_members(make_variational(ForeignPotential(), layers=layers, initial_dropout=0.1), 4, seed=2)
    atoms = ethanol()
    turn = Rotation.random(random_state=0).as_matrix()
    turned = atoms.copy()
    turned.positions = atoms.positions @ turn.T + [1.0, -2.0, 0.5]
    here, there = (evaluate(ensemble, build_graph(each, 4.0)) for each in (atoms, turned))
    torch.testing.assert_close(there.energies, here.energies, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(there.forces, here.forces @ torch.tensor(turn.T), rtol=1e-8, atol=1e-9)
    difference = 0.0
    for steps, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):  # five-point formula
        moved = atoms.copy()
        moved.positions[3, 2] += steps * 1e-3
        difference = difference - weight * ensemble.energies(build_graph(moved, 4.0)).detach().squeeze(1) / 12e-3
    torch.testing.assert_close(here.forces[:, 3, 2], difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["readout.0", "last", "mixer", "radial.layer0", "radial.layer1"])
def test_fresh_noise_of_a_layer_has_the_variance_of_frozen_noise(name):
    domain = "edge" if "radial" in name else "node"
    variational = make_variational(ForeignPotential(), layers={domain: rf"^{name}$"}, centred=False)
    (layer,) = variational.maps()
    variational.noise.rates = {domain: torch.full((4, 1), 0.3, dtype=torch.float64)}
    x = torch.randn(4, layer.matrix().shape[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    variational.noise.generator = torch.Generator().manual_seed(2)
    n, generator, found = 4000, torch.Generator().manual_seed(3), {}
    for mode in ("local", "frozen"):
        variational.noise.mode, drawn = mode, []
        for _ in range(n):
            layer.frozen = torch.randn(1, *layer.draw_shape, generator=generator, dtype=torch.float64)
            drawn.append(layer.perturbation(x).detach())
        found[mode] = torch.stack(drawn)
    noisy = found["frozen"].std(dim=0) > 0
    assert noisy.any()
    ratio = (found["local"].std(dim=0) / found["frozen"].std(dim=0))[noisy]
    np.testing.assert_allclose(ratio, 1.0, atol=6 / np.sqrt(2 * n))
    if name == "mixer":
        assert not noisy[:, 6:].any()  # vectors stay as they are


def test_the_divergence_counts_every_weight_that_has_noise():
    graph = build_graph(ethanol(), 4.0)
    potential = make_variational(ForeignPotential(), layers=EVERYWHERE, initial_dropout=0.2)
    with torch.no_grad():
        for logits in (potential.rates.node, potential.rates.edge):
            logits.bias.add_(torch.randn(logits.bias.shape, dtype=torch.float64))
    sizes = {"mixer": 36, "readout.0": 96, "last": 8, "radial.layer0": 60, "radial.layer1": 12 * 12 * 6}
    assert [each.n_weights for each in potential.maps()] == [sizes[name] for name in sizes if "radial" in name] + [
        sizes[name] for name in sizes if "radial" not in name
    ]
    rates = potential.rates(graph)
    expected = sum(
        each.n_weights * kl_of_rate(rates[each.domain][:, each.column], 1.0).mean() for each in potential.maps()
    ) / sum(sizes.values())
    torch.testing.assert_close(kl_divergence(potential, graph), expected)
    with pytest.raises(InputError, match="`graph` must be given before anything was evaluated with noise"):
        kl_divergence(potential)
    with potential.fresh(torch.Generator()):
        potential.energies(graph)
    torch.testing.assert_close(kl_divergence(potential), expected)


def test_masks_of_dropout_fall_on_whole_inputs():
    graph = build_graph(ethanol(), 4.0)
    options = {"law": "dropout", "inputs": "none", "initial_dropout": 0.25, "centred": False}
    potential = make_variational(ForeignPotential(), layers={"node": "readout.0"}, **options)
    assert not any(parameter.requires_grad for parameter in potential.rates.parameters())
    (layer,) = potential.maps()
    x = torch.randn(9, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    potential.set_rates(graph)
    matrix = layer.matrix().detach()
    (drawn,) = potential.draws(400, torch.Generator().manual_seed(1))
    assert drawn.shape == (400, 12, 1)
    for eps in drawn[:5]:
        with potential.frozen([eps.unsqueeze(0)]):
            found = layer(x).detach()
        kept = 1 + np.sqrt(0.25 / 0.75) * eps[:, 0]  # 0 or 1/(1 - p)
        assert set(np.round(kept.tolist(), 9)) <= {0.0, round(1 / 0.75, 9)}
        bias = layer.layer.bias.detach()
        torch.testing.assert_close(found, (x * kept) @ matrix + bias, rtol=1e-4, atol=1e-5)  # p ends at 1e-6
    potential.noise.mode, potential.noise.generator = "local", torch.Generator().manual_seed(2)
    fresh = torch.stack([layer.perturbation(x).detach() for _ in range(4000)])
    exact = torch.sqrt(0.25 / 0.75 * (x**2) @ matrix**2)
    np.testing.assert_allclose(fresh.std(dim=0) / exact, 1.0, atol=0.06)
    assert (fresh.mean(dim=0).abs() < 5 * exact / np.sqrt(4000)).all()


def test_a_foreign_potential_is_fine_tuned_and_drives_ase():
    frames = labelled(24, 0)
    elements = sorted({symbol for frame in frames for symbol in frame.atoms.get_chemical_symbols()})
    potential = make_variational(ForeignPotential(elements), layers=EVERYWHERE, initial_dropout=5e-5, max_dropout=0.1)
    settings = FitSettings(epochs=4, batch_size=4, learning_rate=0.01)
    records = []
    ensemble = train_variational(
        frames[:16],
        frames[16:],
        n_members=3,
        settings=settings,
        start=potential,
        on_epoch=lambda part, record: records.append(record),
    )
    assert records[-1].forces_rmse < records[0].forces_rmse
    model, atoms = MemberUncertainty(ensemble), frames[0].atoms.copy()
    assert_uncertainty_model(model, atoms)
    atoms.calc = UQCalculator(model)
    assert np.isfinite(atoms.get_forces()).all()
    assert atoms.calc.results["energy_var"] > 0


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"node": "attention"}, "'attention' matches none; there are "),
        ({"atoms": "last"}, "tag layers as of nodes or edges, got 'atoms'"),
        ({"node": "readout", "edge": "readout.0"}, "must tag a layer once, 'readout' matches readout.0 again"),
        (("readout",), "must name a mapping of node and edge to patterns"),
    ],
)
def test_bad_layers(layers, words):
    with pytest.raises(InputError, match=words):
        make_variational(ForeignPotential(), layers=layers)


@pytest.mark.parametrize("mode", ["local", "frozen"])
def test_a_layer_with_the_wrong_tag_is_named(mode):
    potential = make_variational(ForeignPotential(), layers={"edge": "last"})
    potential.noise.mode = mode
    (layer,) = potential.maps()
    layer.frozen = torch.ones(1, *layer.draw_shape, dtype=torch.float64)
    with pytest.raises(InputError, match="tags a layer as one of edges, of which there are .*, but it sees 9 rows"):
        potential.energies(build_graph(ethanol(), 4.0))


def test_a_layer_that_sees_no_rows_is_refused():
    potential = make_variational(ForeignPotential(), layers={"node": "readout.0"})
    (layer,) = potential.maps()
    with potential.fresh(torch.Generator()), pytest.raises(InputError, match=r"an array of shape \(3, 2, 12\)"):
        layer(torch.zeros(3, 2, 12, dtype=torch.float64))


def test_pseudoscalars_have_weights_of_their_own():
    linear = o3.Linear("3x0e + 2x0o + 2x1o", "2x0e + 1x0o + 1x1o").double()
    layer = NoisyLinear(linear, Noise(), "node", 0)
    assert layer.n_weights == 3 * 2 + 2 * 1
    matrix = layer.matrix()
    assert (matrix != 0).sum() == layer.n_weights
    x = torch.randn(4, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(x[:, :5] @ matrix[:5, :3], linear(x)[:, :3])


def test_fresh_noise_leaves_vectors_alone():
    potential = make_variational(ForeignPotential(), layers={"node": "mixer"}, initial_dropout=0.3)
    (layer,) = potential.maps()
    potential.set_rates(build_graph(ethanol(), 4.0))
    x = torch.randn(9, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with potential.fresh(torch.Generator()):
        noise = layer.perturbation(x)
    assert noise[:, :6].abs().min() > 0
    assert not noise[:, 6:].any()


def test_a_foreign_model_says_how_it_is_kept(tmp_path):
    model = MemberUncertainty(sample_members(make_variational(ForeignPotential(), layers=EVERYWHERE), 2))
    with pytest.raises(InputError, match="to be stored, ForeignPotential is none.*state_dict"):
        save(model, tmp_path / "model.pt")


def test_a_memory_limit_counts_draws_one_by_one():
    ensemble = sample_members(make_variational(ForeignPotential(), layers=EVERYWHERE), 6)
    atoms = ethanol()
    free = MemberUncertainty(ensemble).predict(atoms)
    cap = MemoryCap.of(ensemble.potential, 1.0)
    needed = cap.needed(build_graph(atoms, 4.0)) / 1e9
    tight = MemberUncertainty(ensemble, memory_limit=2.5 * needed)
    found = tight.predict(atoms)
    np.testing.assert_allclose(found.energy_members, free.energy_members, rtol=1e-11)
    np.testing.assert_allclose(found.forces_var, free.forces_var, rtol=1e-9)
    graph = build_graph(atoms, 4.0)
    parts = ensemble.parts(graph, at_once=tight._evaluator.memory.members_at_once(graph))
    assert [part.n_copies for part in parts] == [2, 2, 2, 1]
    with pytest.raises(InputError, match="for one member"):
        MemberUncertainty(ensemble, memory_limit=0.5 * needed).predict(atoms)


def test_a_module_without_layers_is_refused():
    class Bare(ForeignPotential):
        def __init__(self):
            torch.nn.Module.__init__(self)
            self.elements, self.scale = ("H",), torch.ones(())

    with pytest.raises(InputError, match="must have linear layers to put noise on, Bare has none"):
        make_variational(Bare(), layers={"node": "x"})
