"""Training a shallow ensemble: rows and heads by hand, resuming, and what it is worth."""

import numpy as np
import pytest
import torch

from ase_uq.errors import InputError
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import EquivariantPotential, ShallowEnsemble
from ase_uq.potentials.graph import build_graph
from ase_uq.training import FitSettings, Frame
from ase_uq.training.heads import fit_heads
from ase_uq.training.rows import Part, Rows
from ase_uq.validation.residuals import residuals
from tests.made.alloys import SMALL, labelled
from tests.made.training import train_shallow


@pytest.fixture(scope="module")
def alloy():
    return labelled(30, 0)


def settings(**changes):
    return FitSettings(**{"epochs": 10, "batch_size": 4, "learning_rate": 0.02, **changes})


def trained(alloy, **options):
    options = {"n_members": 4, "settings": settings(), "config": SMALL, **options}
    return train_shallow(alloy[:24], alloy[24:], **options)


def made_up(n, seed, std):
    """Rows whose errors are drawn from a last layer that is wrong by `std`, (F,), and nothing else."""
    rng = np.random.default_rng(seed)
    x = torch.from_numpy(rng.normal(size=(n, len(std))) * np.linspace(1.0, 30.0, len(std)))
    errors = (x * torch.from_numpy(rng.normal(size=x.shape) * std)).sum(dim=1)
    forces, energies = Part(x[n // 5 :], errors[n // 5 :]), Part(x[: n // 5], errors[: n // 5])
    return Rows(forces, energies, Part(x[:0], errors[:0]), torch.ones(n // 5))


def test_heads_learn_the_law_of_the_errors():
    """Errors of every row from a last layer of its own, of known covariance: the heads must have that covariance."""
    std = np.array([1.0, 0.1, 0.0, 0.05, 0.0])
    train, valid = made_up(6000, 0, std), made_up(2000, 1, std)
    deviations = fit_heads(train, valid, 12)
    assert float(deviations.mean(dim=1).abs().max()) < 1e-12
    spread = (valid.forces.x @ deviations).std(dim=1)
    truth = (valid.forces.x.square() @ torch.from_numpy(std**2)).sqrt()
    assert float((spread / truth).log().abs().median()) < 0.1
    assert float((spread / truth).log().mean()) == pytest.approx(0.0, abs=0.05)


def test_the_size_of_heads_is_that_of_errors_they_were_not_fitted_to():
    std = np.array([1.0, 0.1, 0.3])
    train, valid = made_up(3000, 0, std), made_up(1000, 1, 3.0 * std)
    spread = (valid.forces.x @ fit_heads(train, valid, 8)).std(dim=1)
    assert float((valid.forces.error.abs() < spread).double().mean()) == pytest.approx(0.68, abs=0.04)


def test_a_training_reports_its_epochs(alloy):
    seen = []
    ensemble = trained(alloy, on_epoch=lambda part, record: seen.append((part, record.epoch)))
    assert seen == [(0, i) for i in range(1, 11)]
    assert ensemble.n_members == 4


def test_the_mean_is_the_body(alloy):
    ensemble = trained(alloy, settings=settings(epochs=2))
    graph = build_graph(alloy[0].atoms, 3.5)
    with torch.no_grad():
        energies, body = ensemble.energies(graph), ensemble.potential.energies(graph)
    assert energies.mean().item() == pytest.approx(body.item(), abs=1e-10)
    assert energies.std().item() > 1e-4


def test_a_trained_ensemble_knows_its_errors():
    frames = labelled(60, 3)
    ensemble = train_shallow(frames[:50], frames[50:], n_members=8, settings=settings(epochs=60, ema=0.9), config=SMALL)
    scores = residuals(MemberUncertainty(ensemble), labelled(20, 77)).force_scores()
    assert scores.rmse < 0.25
    assert 0.45 < scores.coverage_68 < 0.9
    assert scores.spearman > 0.2


def test_an_interrupted_training_resumes_to_the_same_result(alloy, tmp_path):
    class Interrupted(Exception):
        pass

    def stop(part, record):
        if record.epoch == 3:
            raise Interrupted

    whole = trained(alloy)
    with pytest.raises(Interrupted):
        trained(alloy, state_dir=tmp_path / "state", on_epoch=stop)
    resumed = trained(alloy, state_dir=tmp_path / "state", resume=True)
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not (tmp_path / "state").exists()


def test_fine_tuning_starts_from_the_body(alloy):
    start = trained(alloy)
    before = {name: value.clone() for name, value in start.potential.network.named_parameters()}
    # A learning rate of nothing leaves the weights where they were, but for the last layer.
    tuned = trained(alloy, start=start, settings=settings(epochs=1, learning_rate=1e-12))
    for name, value in tuned.potential.network.named_parameters():
        if not name.startswith("readouts"):
            torch.testing.assert_close(value.detach(), before[name], rtol=1e-6, atol=1e-8)


def test_labels_that_tell_nothing_of_forces_give_heads_all_the_same():
    lonely = [Frame(f.atoms[:1], 1.0, np.zeros((1, 3)), None, "") for f in labelled(3, 0)]
    body = EquivariantPotential(["Au", "Cu"], **SMALL)
    start = ShallowEnsemble(body, 3, seed=1)
    tuned = train_shallow(lonely[:2], lonely[2:], n_members=3, settings=settings(epochs=1), start=start)
    assert np.isfinite(MemberUncertainty(tuned).predict(lonely[0].atoms).energy_members).all()


def test_bad_input(alloy):
    with pytest.raises(InputError, match="`n_members` must be at least 2"):
        trained(alloy, n_members=1)
    with pytest.raises(InputError, match="`n_members` must be 4 as in the starting model, got 8"):
        trained(alloy, start=trained(alloy, settings=settings(epochs=2)), n_members=8)
