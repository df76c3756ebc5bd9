"""`train_variational`: the evidence lower bound of a variational potential.

    loss = squared errors of one noisy evaluation + warm-up * kl_weight * KL(posterior, prior) per weight

The noise is fresh in every step and independent from row to row (local reparameterisation). The squared errors are
those of `losses`, without units, so that `kl_weight` means the same for every material: the smaller, the more the data
narrow the noise.

References
----------
Coscia, de Haan and Welling, arXiv:2508.14022; Kingma, Salimans and Welling, arXiv:1506.02557.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ase_uq.device import checked_device
from ase_uq.errors import InputError
from ase_uq.graph import Graph, build_graph
from ase_uq.potentials import (
    DeepEnsemble,
    EquivariantPotential,
    ShallowEnsemble,
    VariationalEnsemble,
    VariationalPotential,
    make_variational,
    sample_members,
)
from ase_uq.potentials.variational import DEFAULT_LAYERS
from ase_uq.training.batches import Batches
from ase_uq.training.data import Frame
from ase_uq.training.fit import EpochRecord, FitSettings, fit
from ase_uq.training.losses import Labels, Scored, SquaredErrors, Weights
from ase_uq.training.reference import fit_reference

KL_WEIGHT = 1e-3
_EPOCHS_OF_A_SEED = 1_000_003  # further apart than any training is long
WARM_UP = 0.2  # part of the epochs asked for over which the weight of the KL term rises
_JUDGED_FRAMES, _AT_THE_CAP, _DIED_OUT = 10, 0.95, 1e-5
# To fine-tune: hardly any noise at the start, and never much.
FINE_TUNING: dict[str, Any] = {"initial_dropout": 5e-5, "max_dropout": 0.1}


class EvidenceLowerBound:
    """Squared errors under noise plus the divergence from the prior; without either when it validates.

    Parameters
    ----------
    weights
        Of the squared errors.
    kl_weight
        Of the divergence, nats per weight.
    warm_up
        Epochs over which that weight rises; 0 for none.
    generator, seed
        Of the noise, which follows from the epoch: a training that was interrupted goes on with the same.
    """

    def __init__(
        self, weights: Weights, *, kl_weight: float, warm_up: float, generator: torch.Generator, seed: int
    ) -> None:
        self.errors, self.kl_weight, self.warm_up = SquaredErrors(weights), kl_weight, warm_up
        self.generator, self.seed, self.epoch = generator, seed, 0

    def begin_epoch(self, epoch: int) -> None:
        """Set the weight and the noise of an epoch, counted from 0."""
        self.epoch = epoch
        self.generator.manual_seed(_EPOCHS_OF_A_SEED * self.seed + epoch)

    def __call__(self, potential: VariationalPotential, graph: Graph, labels: Labels, *, training: bool) -> Scored:
        """Score a batch."""
        if not training:
            return self.errors(potential, graph, labels, training=False)
        potential.noise.mode, potential.noise.generator = "local", self.generator
        try:
            scored = self.errors(potential, graph, labels, training=True)
            warm = min(1.0, (self.epoch + 1) / self.warm_up) if self.warm_up else 1.0
            loss = scored.loss + warm * self.kl_weight * potential.kl_divergence()
        finally:
            potential.noise.mode = "mean"
        return Scored(loss, scored.energy_error, scored.force_error)


def train_variational(
    train: Sequence[Frame],
    valid: Sequence[Frame],
    *,
    n_members: int,
    settings: FitSettings,
    config: dict[str, Any] | None = None,
    start: VariationalEnsemble | DeepEnsemble | ShallowEnsemble | None = None,
    kl_weight: float = KL_WEIGHT,
    layers: Sequence[str] = DEFAULT_LAYERS,
    device: str = "cpu",
    state_dir: Path | None = None,
    resume: bool = False,
    on_epoch: Callable[[int, EpochRecord], None] | None = None,
) -> VariationalEnsemble:
    """Train a variational potential and draw members of it.

    Parameters
    ----------
    train, valid
        Labelled frames; the best weights are those whose mean potential has the smallest squared errors on `valid`.
    n_members
        Draws, at least 2; they cost no training.
    settings
        How to train.
    config
        Arguments of `EquivariantPotential` other than `elements` and `seed`.
    start
        Trained model to fine-tune: a variational one, or any other, whose first potential is taken, with hardly any
        noise at the start.
    kl_weight
        Weight of the divergence from the prior.
    layers
        As for `make_variational`.
    device, state_dir, resume, on_epoch
        As for the other methods.

    Raises
    ------
    InputError
        For fewer than 2 draws or other settings out of range.
    """
    checked_device(device)
    if not kl_weight >= 0.0:
        raise InputError(f"`kl_weight` must not be negative, got {kl_weight}; {KL_WEIGHT:g} is usual.")
    potential = _start(train, settings, config, layers) if start is None else _from(start, layers)
    ensemble = sample_members(potential, n_members, seed=settings.seed)  # before training: it checks the number
    potential.requires_grad_(True).to(device)
    if state_dir is not None:
        state_dir.mkdir(parents=True, exist_ok=True)
    shown, held_out = (
        Batches(frames, cutoff=potential.cutoff, batch_size=settings.batch_size, device=device)
        for frames in (train, valid)
    )
    objective = EvidenceLowerBound(
        settings.weights,
        kl_weight=kl_weight,
        warm_up=WARM_UP * settings.epochs,
        generator=torch.Generator(device),
        seed=settings.seed,
    )
    fit(
        potential,
        shown,
        held_out,
        settings,
        objective=objective,
        on_epoch=None if on_epoch is None else lambda record: on_epoch(0, record),
        state_path=None if state_dir is None else state_dir / "variational.pt",
        resume=resume,
    )
    if state_dir is not None:
        shutil.rmtree(state_dir)
    return ensemble.cpu()


def noise_warnings(ensemble: VariationalEnsemble, frames: Sequence[Frame], *, kl_weight: float) -> tuple[str, ...]:
    """Sentences about noise that does not do its work, judged on some of the training frames."""
    potential = ensemble.potential
    p = torch.cat([_dropout(potential, frame) for frame in frames[:: max(1, len(frames) // _JUDGED_FRAMES)]])
    cap = potential.config()["max_dropout"]
    found = []
    if kl_weight == 0.0:
        found.append(
            "the divergence from the prior has no weight (`--kl-weight 0`): nothing holds the noise up, and draws will "
            "hardly differ."
        )
    if bool((p > _AT_THE_CAP * cap).all()):
        found.append(
            f"dropout rates are at their cap of {cap:g} everywhere: the noise does not adapt to the data; lower "
            "`--kl-weight`."
        )
    if bool((p < _DIED_OUT).all()):
        found.append(
            f"dropout rates are below {_DIED_OUT:g} everywhere: the noise has died out, and draws hardly differ; raise "
            "`--kl-weight`, or train longer when fine-tuning."
        )
    return tuple(found)


def _dropout(potential: VariationalPotential, frame: Frame) -> torch.Tensor:
    with torch.no_grad():
        potential.set_rates(build_graph(frame.atoms, potential.cutoff))
    used = {each.domain for each in potential.maps()}
    rates = torch.cat([potential.noise.rates[domain].flatten() for domain in sorted(used)])
    return rates / (1.0 + rates)


def _start(
    train: Sequence[Frame], settings: FitSettings, config: dict[str, Any] | None, layers: Sequence[str]
) -> VariationalPotential:
    config = dict(config or {})
    reference = fit_reference(train, cutoff=config.get("cutoff", 5.0))
    body = EquivariantPotential(reference.elements, seed=settings.seed, **config)
    body.set_reference(shifts=reference.shifts, scale=reference.scale, mean_neighbours=reference.mean_neighbours)
    return make_variational(body, layers=layers, seed=settings.seed)


def _from(start: VariationalEnsemble | DeepEnsemble | ShallowEnsemble, layers: Sequence[str]) -> VariationalPotential:
    if isinstance(start, VariationalEnsemble):
        return start.potential
    body: Any = start.members[0] if isinstance(start, DeepEnsemble) else start.potential
    return make_variational(body, layers=layers, **FINE_TUNING)
