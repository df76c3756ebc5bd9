"""Training of noise: it narrows where data speak, follows its weight, and leaves a trained model as it was."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from ase import Atoms

from ase_uq.errors import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import EquivariantPotential, VariationalEnsemble, evaluate, kl_divergence, make_variational
from ase_uq.potentials.graph import build_graph
from ase_uq.training import FitSettings, train_members
from ase_uq.training.batches import Batches
from ase_uq.training.losses import SquaredErrors
from ase_uq.training.run import TrainingRun
from ase_uq.training.surroundings import Surroundings
from ase_uq.training.variational import AROUND, KL_WEIGHT, EvidenceLowerBound, noise_warnings, train_variational
from ase_uq.validation.residuals import residuals
from tests.made.alloys import SMALL, labelled

TERMS = {"errors", "divergence", "divergence_around", "dropout", "dropout_around"}
CONFIG = {"cutoff": 3.5, "channels": 8, "n_layers": 1, "radial_width": 16}


def settings(epochs=8, **options):
    return FitSettings(epochs=epochs, batch_size=4, learning_rate=0.02, **options)


def rates(ensemble, frames):
    ensemble.potential.set_rates(build_graph(frames[0].atoms, ensemble.cutoff))
    return ensemble.potential.noise.rates["node"].detach()


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def data():
    frames = labelled(36, 0)
    return frames[:24], frames[24:]


def test_training_lowers_the_error_and_gives_a_spread_of_its_size(data):
    train, valid = data
    records = []

    parts = []

    def keep(part, record):
        parts.append(part)
        records.append(record)

    ensemble = train_variational(
        train,
        valid,
        n_members=6,
        settings=settings(15),
        config=CONFIG,
        on_epoch=keep,
    )
    assert isinstance(ensemble, VariationalEnsemble)
    assert parts == [0] * 15 + [1] * 4
    assert records[14].forces_rmse < 0.75 * records[0].forces_rmse
    scores = residuals(MemberUncertainty(ensemble), labelled(24, 5)).force_scores()
    assert 0.4 < scores.coverage_68 < 0.97


def test_the_weight_of_the_divergence_sets_the_noise(data):
    train, valid = data
    found = [
        rates(train_variational(train, valid, n_members=4, settings=settings(20), config=CONFIG, kl_weight=w), train)
        for w in (1e-6, 1e-2)
    ]
    assert found[0].mean() < 0.7 * found[1].mean()


def test_noise_is_stronger_around_the_frames_than_at_them(data):
    train, valid = data
    records = []
    ensemble = train_variational(
        train,
        valid,
        n_members=8,
        settings=settings(20),
        config=CONFIG,
        kl_weight=KL_WEIGHT,
        on_epoch=lambda part, r: records.append(r),
    )
    terms = records[-1].terms
    assert set(terms) == TERMS
    assert terms["dropout_around"] > 2 * terms["dropout"]
    assert records[-1].train_loss == pytest.approx(
        terms["errors"] + KL_WEIGHT * (terms["divergence"] + AROUND * terms["divergence_around"]), rel=1e-5
    )
    model, widths = MemberUncertainty(ensemble), []
    for size in (0.0, 0.3):
        atoms = [frame.atoms.copy() for frame in valid]
        for seed, each in enumerate(atoms):
            each.positions += size * np.random.default_rng(seed).normal(size=each.positions.shape)
        widths.append(np.sqrt(np.mean([model.predict(each).forces_var.mean() for each in atoms])))
    assert widths[1] > 3 * widths[0]


def test_surroundings_belong_to_their_generator_and_are_as_far_as_asked(data):
    train, _ = data
    around = Surroundings(train, cutoff=3.5, n_copies=200, spread=(0.1, 0.2))
    graphs = [around.drawn(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(graphs[0].positions, graphs[1].positions)
    assert not torch.equal(graphs[0].positions[:4], graphs[2].positions[:4])
    assert graphs[0].n_structures == 200
    moves, picks = [], torch.randint(len(train), (200,), generator=torch.Generator().manual_seed(0))
    for k, pick in enumerate(picks.tolist()):
        own = graphs[0].positions[graphs[0].structures == k].numpy()
        moves.append((own - train[pick].atoms.positions).std())
    assert 0.1 < np.median(moves) < 0.2
    assert min(moves) > 0.03
    assert max(moves) < 0.4


@pytest.mark.parametrize("noise", ["shared", "local"])
def test_the_bound_is_errors_plus_the_divergence(data, noise):
    train, _ = data
    ensemble = train_variational(train, train, n_members=2, settings=settings(1), config=CONFIG, kl_weight=KL_WEIGHT)
    potential, errors = ensemble.potential, SquaredErrors(settings().weights)
    (batch,) = Batches(train[:4], cutoff=3.5, batch_size=4).in_order()
    bound = EvidenceLowerBound(errors, kl_weight=0.3, warm_up=0.5, noise=noise, seed=1)
    scores = []
    for progress in (0.0, 0.25, 0.5, 0.9, 0.9):
        bound.begin_epoch(3, progress=progress)
        scores.append(bound(potential, batch.graph, batch.labels, training=True))
    divergence = kl_divergence(potential, batch.graph).item()
    # The same noise in the same epoch, but for the centres, which have followed what they saw.
    assert scores[3].terms["errors"].item() == pytest.approx(scores[4].terms["errors"].item(), rel=0.01)
    for scored, warmth in zip(scores, (0.0, 0.5, 1.0, 1.0, 1.0), strict=True):
        expected = scored.terms["errors"].item() + 0.3 * warmth * divergence
        assert scored.loss.item() == pytest.approx(expected, rel=1e-5)
    plain = bound(potential, batch.graph, batch.labels, training=False)
    assert plain.loss.item() == pytest.approx(errors(potential, batch.graph, batch.labels, training=False).loss.item())
    assert potential.noise.mode == "mean"
    bound.begin_epoch(4, progress=0.9)
    other = bound(potential, batch.graph, batch.labels, training=True)
    assert abs(other.loss.item() / scores[4].loss.item() - 1) > 0.01


def test_noise_leaves_an_average_atom_alone(data):
    train, valid = data
    ensemble = train_variational(train, valid, n_members=8, settings=settings(3), config=CONFIG)
    potential = ensemble.potential
    (batch,) = Batches(train, cutoff=3.5, batch_size=len(train)).in_order()
    seen = {}
    for k, each in enumerate(potential.maps()):

        def remember(x, k=k, each=each):
            seen[k] = (x, each)
            return x.new_zeros(len(x), each.matrix().shape[1])

        each.perturbation = remember
    with torch.no_grad(), potential.fresh(torch.Generator()):
        potential.energies(batch.graph)
    for x, each in seen.values():
        for element in range(len(potential.elements)):
            own = x[potential.noise.species == element]
            gap = (own.mean(dim=0) - each.centre[element]).square().mean().sqrt()
            assert gap < 0.2 * own.std(dim=0).square().mean().sqrt()


def test_a_start_is_copied_and_gets_what_it_lacks(data):
    train, valid = data
    elements = sorted({symbol for frame in train for symbol in frame.atoms.get_chemical_symbols()})
    body = EquivariantPotential([*elements, "Xe"], **CONFIG)
    start = make_variational(body)
    before = {name: value.clone() for name, value in start.state_dict().items()}
    tuned = train_variational(train, valid, n_members=2, settings=settings(3), start=start)
    assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
    assert tuned.scale != 1.0  # the reference of the frames
    again = train_variational(train, valid, n_members=2, settings=settings(1), start=tuned)
    assert not torch.equal(again.potential.body.network.embedding, tuned.potential.body.network.embedding)
    from_body = train_variational(train, valid, n_members=2, settings=settings(1), start=body)
    assert from_body.potential.config()["max_dropout"] == 0.1
    with pytest.raises(InputError, match="`module` must be a potential of one member"):
        train_variational(train, valid, n_members=2, settings=settings(1), start=torch.nn.Linear(2, 2))


def test_atoms_that_see_no_other_do_not_stop_a_training_with_noise_on_edges(data):
    train, valid = data
    alone = replace(train[0], atoms=Atoms("Cu"), forces=np.zeros((1, 3)), stress=None)
    ensemble = train_variational(
        [alone, *train[:3]],
        valid[:4],
        n_members=2,
        settings=FitSettings(epochs=1, batch_size=1),
        config=CONFIG,
        noise={"layers": ("radial",)},
    )
    assert np.isfinite(MemberUncertainty(ensemble).predict(valid[0].atoms).energy_members).all()


def test_another_weight_is_another_training(data, tmp_path):
    train, valid = data
    arguments = {"n_members": 2, "settings": settings(3), "config": CONFIG, "state_dir": tmp_path / "state"}

    def stop(part, record):
        raise Stop

    with pytest.raises(Stop):
        train_variational(train, valid, on_epoch=stop, kl_weight=1e-4, **arguments)
    with pytest.raises(InputError, match="`kl_weight` must be 0.0001 as in the interrupted training, got 0.1"):
        train_variational(train, valid, resume=True, kl_weight=0.1, **arguments)


def test_rates_of_dropout_are_a_choice(data):
    train, valid = data
    noise = {"law": "dropout", "inputs": "none", "centred": False, "initial_dropout": 0.2}
    arguments = {"n_members": 4, "settings": settings(3), "config": CONFIG, "kl_weight": 0.0, "noise": noise}
    ensemble = train_variational(train, valid, **arguments)
    found = rates(ensemble, train)
    np.testing.assert_allclose(found / (1 + found), 0.2, atol=1e-5)
    assert residuals(MemberUncertainty(ensemble), valid).stacked("forces_var").mean() > 0


def test_fine_tuning_starts_from_the_model_as_it_is(data):
    train, valid = data
    trained = train_members(train, valid, n_members=2, settings=settings(4), config=CONFIG)
    # A learning rate that moves nothing.
    frozen = FitSettings(epochs=1, batch_size=4, learning_rate=1e-12)
    ensemble = train_variational(train, valid, n_members=4, settings=frozen, start=trained, kl_weight=KL_WEIGHT)
    first = trained.members[0]
    for frame in valid[:3]:
        found = MemberUncertainty(ensemble).predict(frame.atoms)
        exact = evaluate(first, build_graph(frame.atoms, first.cutoff))
        np.testing.assert_allclose(found.forces, exact.forces[0], atol=2e-4 * float(exact.forces.abs().max()))
    p = rates(ensemble, train)
    assert float((p / (1 + p)).max()) < 1e-3
    assert ensemble.potential.config()["max_dropout"] == 0.1


def test_the_same_seed_gives_the_same_model(data):
    train, valid = data
    hashes = []
    for _ in range(2):
        torch.manual_seed(5)
        ensemble = train_variational(train, valid, n_members=4, settings=settings(2), config=CONFIG)
        hashes.append(MemberUncertainty(ensemble).model_hash)
        torch.randn(3)
    assert hashes[0] == hashes[1]


def test_an_interrupted_training_ends_as_if_it_had_not_been(data, tmp_path):
    train, valid = data
    for kl_weight, where in ((None, (0, 2)), (None, (1, 1)), (1e-4, (0, 2))):
        arguments = {"n_members": 3, "settings": settings(8), "config": CONFIG, "kl_weight": kl_weight}

        def stop(part, record, where=where):
            if (part, record.epoch) == where:
                raise Stop

        with pytest.raises(Stop):
            train_variational(train, valid, state_dir=tmp_path / "state", on_epoch=stop, **arguments)
        resumed = train_variational(train, valid, state_dir=tmp_path / "state", resume=True, **arguments)
        whole = train_variational(train, valid, **arguments)
        assert MemberUncertainty(resumed).model_hash == MemberUncertainty(whole).model_hash
        assert not (tmp_path / "state").exists()


def _at_the_cap(ensemble):
    ensemble.potential.rates.shift_logits(60.0)
    return ensemble


def test_noise_that_does_no_work_is_called_out(data):
    train, valid = data
    ensemble = train_variational(train, valid, n_members=2, settings=settings(1), config=CONFIG)
    assert noise_warnings(ensemble, train, kl_weight=None) == ()
    assert "no weight" in noise_warnings(ensemble, train, kl_weight=0.0)[0]
    for shift, words in ((20.0, "at their cap of 0.8 everywhere"), (-20.0, "the noise has died out")):
        with torch.no_grad():
            ensemble.potential.rates.node.bias.fill_(shift)
        (sentence,) = noise_warnings(ensemble, train, kl_weight=1e-3)
        assert words in sentence
    (sentence,) = noise_warnings(_at_the_cap(ensemble), train, kl_weight=None)
    assert "errors are larger than any noise" in sentence
    still = FitSettings(epochs=1, batch_size=4, learning_rate=1e-9)
    body = EquivariantPotential(["Au", "Cu"], **CONFIG)
    tuned = train_variational(train, valid, n_members=2, settings=still, start=body, kl_weight=KL_WEIGHT)
    (sentence,) = noise_warnings(tuned, train, kl_weight=1e-3)
    assert "still about their start of 5e-05 everywhere" in sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_members": 1}, "`n_members` must be at least 2"),
        ({"kl_weight": -1.0}, "`kl_weight` must not be negative, got -1.0"),
        ({"noise": {"layers": ("all",)}}, "`layers` must name some of"),
    ],
)
def test_bad_input(data, options, words):
    train, valid = data
    arguments = {"n_members": 4, "settings": settings(1), "config": CONFIG} | options
    with pytest.raises(InputError, match=words):
        train_variational(train, valid, **arguments)


def test_noise_that_training_makes_worse_is_given_up(monkeypatch):
    """Large steps on few frames may leave the noise worse than it began: then what it began with is kept."""
    fit, frames = TrainingRun.fit, labelled(12, 0)

    def trained(harm):
        def harmful(run, potential, data, name, **options):
            if name != "noise":
                return fit(run, potential, data, name, **options)
            with torch.no_grad():
                for value in potential.rates.parameters():
                    value.add_(harm)
            return [1e9]

        monkeypatch.setattr(TrainingRun, "fit", harmful)
        settings = FitSettings(epochs=2, batch_size=4)
        return train_variational(frames[:8], frames[8:], n_members=2, settings=settings, config=SMALL).state_dict()

    left_alone, harmed = trained(0.0), trained(1.0)
    for name, value in left_alone.items():
        torch.testing.assert_close(harmed[name], value, rtol=0.0, atol=0.0)
