"""A deep ensemble of whatever obeys the protocol, module or not, works in everything but storing."""

import copy
import threading

import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet

from ase_uq import InputError, UncertaintyLogger, UQCalculator, read_log, save
from ase_uq.models.llpr import LLPRUncertainty
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import DeepEnsemble, MACEPotential, ShallowEnsemble, abilities_of, evaluate
from ase_uq.potentials.graph import build_graph
from ase_uq.structures.frames import Frame
from ase_uq.testing import assert_potential, assert_uncertainty_model
from ase_uq.training import train_members
from ase_uq.training.fit import FitSettings
from ase_uq.training.verdict import training_warnings
from ase_uq.uncertainty.force_variance import Off, Stochastic
from tests.made.alloys import labelled
from tests.made.foreign import ForeignPotential
from tests.made.potentials import potential


class Springs:
    """Pairs on springs of a length: no module, no elements, nothing but the protocol."""

    n_members, cutoff = 1, 4.0

    def __init__(self, length=1.0):
        self.length = length
        self.lock = threading.Lock()  # cannot be copied

    def energies(self, graph):
        lengths = torch.linalg.vector_norm(graph.edge_vectors(), dim=1, keepdim=True)
        of_edges = (lengths - self.length) ** 2 * (1.0 - lengths / self.cutoff) ** 3
        of_atoms = of_edges.new_zeros(len(graph.numbers), 1).index_add(0, graph.receivers, of_edges)
        return graph.sum_over_atoms(of_atoms).T


class Scalar(torch.nn.Module):
    """A module that does not say which elements it knows."""

    n_members, cutoff = 1, 4.0

    def __init__(self, strength):
        super().__init__()
        self.springs = Springs()
        self.springs.lock = None
        self.strength = torch.nn.Parameter(torch.tensor(strength, dtype=torch.float64))

    def energies(self, graph):
        return self.strength * self.springs.energies(graph)


def ours(seed=0):
    return potential(seed, elements=("C", "H", "O"), cutoff=4.0)


ENSEMBLES = {
    "modules": lambda: [ForeignPotential(seed=seed) for seed in range(3)],
    "no modules": lambda: [Springs(length) for length in (0.9, 1.0, 1.1)],
    "no elements": lambda: [Scalar(strength) for strength in (0.8, 1.0, 1.3)],
    "of all sorts": lambda: [Springs(), ours(), ForeignPotential(), Scalar(0.5)],
}
kinds = pytest.mark.parametrize("kind", ENSEMBLES)


def ethanol():
    atoms = molecule("CH3CH2OH")
    atoms.rattle(0.05, seed=1)
    return atoms


@kinds
def test_members_and_ensemble_obey_the_protocol(kind):
    graph, members = build_graph(ethanol(), 4.0), ENSEMBLES[kind]()
    for each in members:
        assert_potential(each, graph, tolerance=1e-4)
    assert_potential(DeepEnsemble(members), graph, tolerance=1e-4)
    found = evaluate(DeepEnsemble(members), graph, stress=True)
    for k, each in enumerate(members):
        alone = evaluate(each, graph, stress=True)
        assert torch.equal(found.energies[k], alone.energies[0].detach())
        assert torch.equal(found.forces[k], alone.forces[0])


@kinds
def test_they_make_a_model_that_drives_ase_and_is_logged(kind, tmp_path):
    made, atoms = DeepEnsemble(ENSEMBLES[kind]()), ethanol()
    model = MemberUncertainty(made, alpha=1.5)
    assert_uncertainty_model(model, atoms, tolerance=1e-4)
    assert (model.mean_share, model.dof) == (1.0 / made.n_members, made.n_members - 1)
    expected = model.predict(atoms)
    for estimator in (Off(), Stochastic(seed=0)):
        assert model.predict_combined(atoms, forces_var=estimator).energy == expected.energy
    np.testing.assert_allclose(model.predict_many([atoms, atoms])[1].forces_var, expected.forces_var, rtol=1e-9)
    atoms.calc = UQCalculator(model)
    dyn = VelocityVerlet(atoms, 0.2 * units.fs)
    with UncertaintyLogger(tmp_path / "run.h5", atoms, dyn=dyn, temperature_K=300.0) as log:
        dyn.attach(log, interval=1)
        dyn.run(3)
    assert read_log(tmp_path / "run.h5").energy_members.shape[1] == made.n_members


@kinds
def test_they_are_judged_copied_and_kept_apart_from_the_original(kind):
    made, atoms = DeepEnsemble(ENSEMBLES[kind]()), ethanol()
    frames = [Frame(atoms=ethanol(), energy=0.0, forces=np.ones((9, 3)), stress=None, group=None)] * 2
    assert isinstance(training_warnings(made, frames, frames), tuple)
    assert made.state_dict().keys() == made.for_inference().state_dict().keys()
    weights = [each for each in made.parameters() if each.numel()]
    model = MemberUncertainty(made)
    before = model.predict(atoms).energy
    with torch.no_grad():
        for each in weights:
            each.mul_(1.1)
    assert model.predict(atoms).energy == before
    assert MemberUncertainty(made, compile="auto").predict(atoms).energy == pytest.approx(before, rel=0.5, abs=1e3)


@kinds
def test_what_cannot_be_done_is_said(kind, tmp_path):
    made = DeepEnsemble(ENSEMBLES[kind]())
    with pytest.raises(
        InputError, match=r"must be made of potentials of ase_uq to be stored, (Fore|Spri|Scal)\w+ is none"
    ):
        save(MemberUncertainty(made), tmp_path / "model.pt")
    assert not list(tmp_path.iterdir())
    if kind != "of all sorts":
        with pytest.raises(InputError, match="`potential` must have last-layer features"):
            LLPRUncertainty.fit(made, [ethanol()])
    if kind == "modules":
        free, capped = MemberUncertainty(made), MemberUncertainty(made, memory_limit=1.0)
        assert capped.predict(ethanol()).energy == free.predict(ethanol()).energy
    else:
        with pytest.raises(InputError, match="`memory_limit` needs a torch module with `elements`, (Springs|Scalar)"):
            MemberUncertainty(made, memory_limit=1.0)


def test_elements_are_those_of_the_members_that_say():
    assert DeepEnsemble([Springs(), Springs()]).elements is None
    mixed = DeepEnsemble([Springs(), ForeignPotential()])
    assert abilities_of(mixed).elements == ("C", "H", "O")
    with pytest.raises(InputError, match="only elements the model was trained on"):
        MemberUncertainty(mixed).predict(molecule("NH3"))
    assert MemberUncertainty(DeepEnsemble([Springs(), Springs(1.1)])).predict(molecule("NH3")).energy_var > 0.0


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        (lambda: [Springs()], "must hold at least 2 members, got 1"),
        (lambda: [Springs(), object()], "must have `cutoff`, `n_members` and `energies.graph.`, got object"),
        (lambda: [ForeignPotential(), potential(elements=("C",), cutoff=4.0)], "must share one elements"),
        (lambda: [ForeignPotential(), potential(elements=("C", "H", "O"), cutoff=4.5)], "must share one cutoff"),
        (lambda: [ShallowEnsemble(ours(), 4), ShallowEnsemble(ours(1), 4)], r"one member each, got \[4, 4\]"),
    ],
)
def test_members_that_do_not_fit_together(members, rule):
    with pytest.raises(InputError, match=rule):
        DeepEnsemble(members())


class Featured(torch.nn.Module):
    """A foreign body with features, which a shallow ensemble takes; nothing else is there."""

    cutoff, elements, n_features = 4.0, ("C", "H", "O"), 6

    def __init__(self):
        super().__init__()
        self.inner = ours()
        self.weights = torch.nn.Parameter(torch.linspace(-1.0, 1.0, 6, dtype=torch.float64))
        self.scale = torch.tensor(1.3, dtype=torch.float64)

    def features(self, graph):
        return self.inner.features(graph)[:, :6]

    def summed_features(self, graph):
        return graph.sum_over_atoms(self.features(graph))

    def readout(self):
        return self.weights

    def reference_energies(self, graph):
        return torch.zeros(graph.n_structures, dtype=torch.float64)


def test_a_foreign_body_has_heads(tmp_path):
    made, atoms = ShallowEnsemble(Featured(), 4, seed=1), ethanol()
    assert_potential(made, build_graph(atoms, 4.0))
    model = MemberUncertainty(made)
    assert_uncertainty_model(model, atoms)
    copy.deepcopy(made)
    with pytest.raises(InputError, match="to be stored, Featured is none"):
        save(model, tmp_path / "model.pt")
    fitted = LLPRUncertainty.fit(Featured(), [ethanol(), molecule("CH3CH2OH"), molecule("CH3OH"), molecule("H2O")])
    assert np.isfinite(fitted.predict(atoms).energy_var)


def test_a_class_of_the_package_is_no_member_by_its_name():
    assert abilities_of(MACEPotential).elements is None


def test_foreign_members_are_fine_tuned_as_they_are():
    frames = labelled(8, 0)
    elements = sorted({symbol for frame in frames for symbol in frame.atoms.symbols})
    start = DeepEnsemble([ForeignPotential(elements, seed=seed) for seed in range(2)])
    before = {name: value.clone() for name, value in start.state_dict().items()}
    MemberUncertainty(start)  # fixes the weights
    settings = FitSettings(epochs=1, batch_size=4, learning_rate=0.01)
    tuned = train_members(frames[:6], frames[6:], n_members=2, settings=settings, start=start)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    assert type(tuned.members[0]) is ForeignPotential
    assert not torch.equal(tuned.members[0].embedding.weight, start.members[0].embedding.weight)
