"""Training of noise: it narrows where data speak, follows its weight, and leaves a trained model as it was."""

import numpy as np
import pytest
import torch

from ase_uq.errors import InputError
from ase_uq.evaluation import residuals
from ase_uq.members import MemberUncertainty
from ase_uq.potentials import VariationalEnsemble
from ase_uq.training import FitSettings, train_members
from ase_uq.training.variational import noise_warnings, train_variational
from tests.test_train_shallow import labelled

CONFIG = {"cutoff": 3.5, "channels": 8, "n_layers": 1, "radial_width": 16}


def settings(epochs=8, **options):
    return FitSettings(epochs=epochs, batch_size=4, learning_rate=0.02, **options)


def rates(ensemble, frames):
    from ase_uq.graph import build_graph

    ensemble.potential.set_rates(build_graph(frames[0].atoms, ensemble.cutoff))
    return ensemble.potential.noise.rates["node"].detach()


@pytest.fixture(scope="module")
def data():
    frames = labelled(36, 0)
    return frames[:24], frames[24:]


def test_training_lowers_the_error_and_gives_a_spread_of_its_size(data):
    train, valid = data
    records = []

    def keep(part, record):
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
    assert records[-1].forces_rmse < 0.75 * records[0].forces_rmse
    found = residuals(MemberUncertainty(ensemble), valid)
    spread = np.sqrt(found.stacked("forces_var").mean())
    assert 0.02 * found.force_scores().rmse < spread < 20 * found.force_scores().rmse


def test_the_weight_of_the_divergence_sets_the_noise(data):
    train, valid = data
    found = [
        rates(train_variational(train, valid, n_members=4, settings=settings(), config=CONFIG, kl_weight=w), train)
        for w in (1e-5, 1e-1)
    ]
    assert found[0].mean() < 0.7 * found[1].mean()


def test_fine_tuning_starts_from_the_model_as_it_is(data):
    train, valid = data
    trained = train_members(train, valid, n_members=2, settings=settings(4), config=CONFIG)
    # A learning rate that moves nothing.
    frozen = FitSettings(epochs=1, batch_size=4, learning_rate=1e-12)
    ensemble = train_variational(train, valid, n_members=4, settings=frozen, start=trained)
    (plain, noisy) = (residuals(MemberUncertainty(each), valid).force_scores().rmse for each in (trained, ensemble))
    model = MemberUncertainty(ensemble).predict(valid[0].atoms, ["forces"])
    first = trained.members[0]
    from ase_uq.graph import build_graph
    from ase_uq.potentials import evaluate

    exact = evaluate(first, build_graph(valid[0].atoms, first.cutoff)).forces[0]
    np.testing.assert_allclose(model.forces, exact, atol=0.05 * np.abs(exact.numpy()).max())
    assert noisy < 2 * plain + 1.0
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


class Stop(Exception):
    pass


def test_an_interrupted_training_ends_as_if_it_had_not_been(data, tmp_path):
    train, valid = data
    arguments = {"n_members": 3, "settings": settings(5), "config": CONFIG}

    def stop(part, record):
        if record.epoch == 2:
            raise Stop

    with pytest.raises(Stop):
        train_variational(train, valid, state_dir=tmp_path / "state", on_epoch=stop, **arguments)
    resumed = train_variational(train, valid, state_dir=tmp_path / "state", resume=True, **arguments)
    whole = train_variational(train, valid, **arguments)
    assert MemberUncertainty(resumed).model_hash == MemberUncertainty(whole).model_hash


def test_noise_that_does_no_work_is_called_out(data):
    train, valid = data
    ensemble = train_variational(train, valid, n_members=2, settings=settings(1), config=CONFIG)
    assert noise_warnings(ensemble, train, kl_weight=1e-3) == ()
    assert "no weight" in noise_warnings(ensemble, train, kl_weight=0.0)[0]
    for shift, words in ((20.0, "at their cap of 0.8 everywhere"), (-20.0, "the noise has died out")):
        with torch.no_grad():
            ensemble.potential.rates.node.bias.fill_(shift)
        (sentence,) = noise_warnings(ensemble, train, kl_weight=1e-3)
        assert words in sentence


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
