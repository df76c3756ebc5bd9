"""`train_variational`: a variational potential, its mean first and then its noise, or both by the evidence lower bound.

1. The mean weights by squared errors, as one potential, and at the end its last layer and its constants by least
   squares.
2. The rates of the noise by the score of draws, with the mean as it is, see `noise`; and at the end one factor, from
   the errors on the validation frames.

Or, with a weight of the prior (`kl_weight`), all at once:

    loss = squared errors of one noisy evaluation + warm-up * kl_weight * (KL at the frames + 10 KL around them)

with the KL divergence of posterior from prior per weight, mean over atoms and edges. The noise is then fresh in every
step, and of the kind of the members that are drawn later: one draw of the weights for all atoms. Around the frames, see
`surroundings`, nothing opposes the prior.

References
----------
Coscia, de Haan and Welling, arXiv:2508.14022; Kingma, Salimans and Welling, arXiv:1506.02557 (the bound);
arXiv:2605.19939 (the score).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from ase_uq.errors import InputError
from ase_uq.potentials import (
    TrainablePotential,
    VariationalEnsemble,
    VariationalPotential,
    kl_divergence,
    make_variational,
    sample_members,
)
from ase_uq.potentials.abilities import representative
from ase_uq.potentials.graph import Graph, build_graph
from ase_uq.structures.frames import Frame
from ase_uq.training.balance import usual_objective
from ase_uq.training.batches import Batches
from ase_uq.training.blip import Blip
from ase_uq.training.constants import centre_draws
from ase_uq.training.fit import validate
from ase_uq.training.last_layer import LAST_PART, without_last_steps
from ase_uq.training.losses import Labels, Objective, Scored, SquaredErrors
from ase_uq.training.noise import DrawsScore, fit_noise
from ase_uq.training.run import Data, TrainingRun
from ase_uq.training.settings import FitSettings
from ase_uq.training.surroundings import Surroundings

KL_WEIGHT = 1e-4
NOISES = ("shared", "local")
_EPOCHS_OF_A_SEED = 1_000_003  # further apart than any training is long
AROUND = 10.0  # weight of the divergence around the frames, in units of that at them
WARM_UP = 0.2  # part of the training over which the weight of both rises
# Parts of a time budget, or of the epochs, beside that of the last steps; rate of the noise over that of the weights.
MEAN_PART, NOISE_PART, NOISE_RATE, MOST_NOISE_EPOCHS = 0.6, 0.25, 3.0, 20
_SIZED_FRAMES = 30  # enough to know a size by
_JUDGED_FRAMES, _AT_THE_CAP, _DIED_OUT, _GROWN = 10, 0.95, 1e-5, 2.0
# To fine-tune: hardly any noise at the start, never much, and small steps.
FINE_TUNING: dict[str, Any] = {"initial_dropout": 5e-5, "max_dropout": 0.1}
FINE_TUNING_CLIP = 0.5


class EvidenceLowerBound:
    """Errors under noise plus the divergence from the prior; errors of the mean weights alone when it validates.

    Follows its terms before their weights, `errors`, `divergence` and `divergence_around`, and the mean p at the frames
    and around them, `dropout` and `dropout_around`; all with the weights of the step, not their moving average.

    Parameters
    ----------
    errors
        Minus the logarithm of the likelihood, up to a factor: `SquaredErrors`, say.
    kl_weight
        Of the divergence, nats per weight; with 0 there is none.
    warm_up
        Part of the training over which that weight rises; 0 for none.
    surroundings
        Where else the divergence is taken; at the frames alone by default.
    noise
        "shared": one draw of the weights a step, which all atoms of the batch see, as they do when members are drawn;
        "local": independent from row to row (local reparameterisation), which has the same law for one atom, but a
        sum over N atoms then varies by sqrt(N) only, and draws make up for it with energies that vary too much.
    seed
        Of the noise, which follows from the epoch: a training that was interrupted goes on with the same.
    """

    def __init__(
        self,
        errors: Objective,
        *,
        kl_weight: float,
        warm_up: float = 0.0,
        surroundings: Surroundings | None = None,
        noise: str = "shared",
        seed: int = 0,
    ) -> None:
        if noise not in NOISES:
            raise InputError(f"`noise` must be one of {', '.join(NOISES)}, got {noise!r}; choose one.")
        self.kind, self.generator = noise, torch.Generator()
        self.errors, self.kl_weight, self.warm_up = errors, kl_weight, warm_up
        self.settings = {"kl_weight": kl_weight, "warm_up": warm_up, "noise": noise}
        self.surroundings, self.seed, self.warmth = surroundings, seed, 1.0

    def begin_epoch(self, epoch: int, *, progress: float) -> None:
        """Set the weight and the noise of an epoch, counted from 0."""
        self.warmth = min(1.0, progress / self.warm_up) if self.warm_up else 1.0
        self.generator.manual_seed(_EPOCHS_OF_A_SEED * self.seed + epoch)

    def __call__(self, potential: VariationalPotential, graph: Graph, labels: Labels, *, training: bool) -> Scored:
        """Score a batch."""
        if not training:
            return self.errors(potential, graph, labels, training=False)
        potential.noise.follows = True
        try:
            with self._noise(potential):
                scored = self.errors(potential, graph, labels, training=True)
        finally:
            potential.noise.follows = False
        terms = {"errors": scored.loss.detach(), "dropout": mean_dropout(potential)}
        if not self.kl_weight:
            return replace(scored, terms=terms)
        divergence = kl_divergence(potential)
        terms["divergence"] = divergence.detach()
        if self.surroundings is not None:
            potential.set_rates(self.surroundings.drawn(self.generator))
            around = kl_divergence(potential)
            terms |= {"divergence_around": around.detach(), "dropout_around": mean_dropout(potential)}
            divergence = divergence + AROUND * around
        loss = scored.loss + self.warmth * self.kl_weight * divergence
        return replace(scored, loss=loss, terms=terms)

    def _noise(self, potential: VariationalPotential) -> AbstractContextManager[None]:
        if self.kind == "local":
            return potential.fresh(self.generator)
        return potential.frozen(potential.draws(1, self.generator))


def train_variational(
    train: Sequence[Frame],
    valid: Sequence[Frame],
    *,
    n_members: int,
    settings: FitSettings,
    kl_weight: float | None = None,
    noise: dict[str, Any] | None = None,
    objective: EvidenceLowerBound | None = None,
    **run: Any,
) -> VariationalEnsemble:
    """Train a variational potential and draw members of it: `TrainingRun` with the method `Blip` in one call.

    Parameters
    ----------
    train, valid
        Labelled frames; the best weights are those whose mean potential has the smallest squared errors on `valid`.
    n_members, kl_weight
        As for `Blip`.
    settings
        How to train.
    noise
        Options of `make_variational`, where `start` does not bring its own.
    objective
        Another bound than that of squared errors, with a weight of its own instead of `kl_weight`.
    **run
        `config`, `start`, `device`, `state_dir`, `resume`, `on_epoch`: as for `TrainingRun`. What to fine-tune is
        copied: a variational potential (of a foreign module, say) or its draws, whose noise goes on from where it is,
        or any other potential that `make_variational` takes, which starts with hardly any noise. The first
        potential of a deep ensemble is taken, and gradients are clipped at 0.5 or less. A small learning rate, a tenth
        of the usual one, keeps what was learned.

    Raises
    ------
    InputError
        For fewer than 2 draws or other settings out of range.
    """
    method = Blip(n_members, kl_weight)
    training = TrainingRun(train, valid, method, settings, **run)
    draws = train_noisy(method, training, noise=noise, objective=objective)
    training.clear()
    return draws


def train_noisy(
    method: Blip,
    run: TrainingRun,
    *,
    noise: dict[str, Any] | None = None,
    objective: EvidenceLowerBound | None = None,
) -> VariationalEnsemble:
    """Train the mean and the noise of a variational potential, see `train_variational`, and draw members of it."""
    settings, noise = run.settings, dict(noise or {})
    if run.start is None:
        potential = make_variational(run.new_body(), **{"seed": settings.seed, **noise})
    else:
        potential = _from(run.start, noise)
        settings = replace(settings, clip=min(settings.clip, FINE_TUNING_CLIP))
        if _is_new(potential.body):
            run.give_reference(potential.body)
    draws = sample_members(potential, method.n_members, seed=settings.seed)
    potential.to(run.device)
    data = run.batches(potential.cutoff)
    graphs = [batch.graph for batch in data[0].in_order()]
    potential.learn(graphs)
    phases = _Phases(run, potential, data, settings)
    if objective is None and method.kl_weight is not None:
        objective = _usual_bound(phases, method.kl_weight)
    if objective is not None:
        _by_the_bound(phases, objective)
    else:
        _by_the_score(phases)
    potential.learn(graphs)  # the centres, for the best weights
    if objective is None:
        _size(phases, data[1])
    centre_draws(draws.to(run.device), data[0])
    return draws.cpu()


@dataclass(frozen=True, slots=True)
class _Phases:
    """What the phases of a training have in common."""

    run: TrainingRun
    potential: VariationalPotential
    data: Data
    settings: FitSettings

    def fit(self, part: int, name: str, settings: FitSettings, objective: Objective) -> list[float]:
        """Return the validation losses of the epochs."""
        return self.run.fit(self.potential, self.data, name, part=part, settings=settings, objective=objective)


def _usual_bound(phases: _Phases, kl_weight: float) -> EvidenceLowerBound:
    run, settings = phases.run, phases.settings
    around = Surroundings(run.train, cutoff=phases.potential.cutoff, n_copies=settings.batch_size, device=run.device)
    squares = SquaredErrors(settings.weights)
    return EvidenceLowerBound(squares, kl_weight=kl_weight, warm_up=WARM_UP, surroundings=around, seed=settings.seed)


def _by_the_bound(phases: _Phases, objective: Objective) -> None:
    settings, _ = without_last_steps(phases.settings)
    phases.fit(0, "variational", settings, objective)


def _by_the_score(phases: _Phases) -> None:
    potential, settings, minutes = phases.potential, phases.settings, phases.settings.minutes
    parts = [None if minutes is None else part * minutes for part in (MEAN_PART, LAST_PART / 2.0, NOISE_PART)]
    phases.fit(0, "mean", replace(settings, minutes=parts[0]), usual_objective(settings))
    phases.run.finish_body(potential.body, phases.data, minutes=parts[1])
    if potential.noise.law != "gaussian":
        return  # its rates are a choice
    train = phases.data[0]
    potential.learn([batch.graph for batch in train.in_order()])
    _size(phases, train)
    potential.body.requires_grad_(False)
    noisy = replace(
        settings,
        epochs=max(1, min(MOST_NOISE_EPOCHS, round(NOISE_PART * settings.epochs))),
        minutes=parts[2],
        learning_rate=NOISE_RATE * settings.learning_rate,
    )
    score = DrawsScore(seed=settings.seed)
    score.begin_epoch(0, progress=0.0)
    begun, untrained = copy.deepcopy(potential.state_dict()), validate(potential, phases.data[1], score).loss
    if not min(phases.fit(1, "noise", noisy, score), default=math.inf) < untrained:
        potential.load_state_dict(begun)  # a few large steps can be worse than none
    potential.body.requires_grad_(True)


def _size(phases: _Phases, data: Batches) -> None:
    if phases.potential.noise.law == "gaussian":
        n_batches = max(1, _SIZED_FRAMES // data.batch_size)
        some = list(islice(data.shuffled(seed=phases.settings.seed, epoch=0), n_batches))
        fit_noise(phases.potential, some, seed=phases.settings.seed)


def noise_warnings(draws: VariationalEnsemble, frames: Sequence[Frame], *, kl_weight: float | None) -> tuple[str, ...]:
    """Sentences about noise that does not do its work, judged on some of the training frames."""
    potential = draws.potential
    found_p = []
    with torch.no_grad():
        for frame in frames[:: max(1, len(frames) // _JUDGED_FRAMES)]:
            potential.set_rates(build_graph(frame.atoms, potential.cutoff))
            found_p.append(_dropout(potential))
    p = torch.cat(found_p)
    cap, start = potential.rates.max_dropout, potential.rates.initial_dropout
    at_the_cap = bool((p > _AT_THE_CAP * cap).all())
    if kl_weight is None:
        if not at_the_cap:
            return ()
        return (
            f"dropout rates are at their cap of {cap:g} everywhere: errors are larger than any noise; train longer.",
        )
    found = []
    if kl_weight == 0.0:
        found.append(
            "the divergence from the prior has no weight (`--kl-weight 0`): nothing holds the noise up, and draws will "
            "hardly differ."
        )
    if at_the_cap:
        found.append(
            f"dropout rates are at their cap of {cap:g} everywhere: the noise does not adapt to the data; lower "
            "`--kl-weight`."
        )
    if bool((p < _DIED_OUT).all()):
        found.append(
            f"dropout rates are below {_DIED_OUT:g} everywhere: the noise has died out, and draws hardly differ; raise "
            "`--kl-weight`, or train longer when fine-tuning."
        )
    elif start < 1e-3 and bool((p < _GROWN * start).all()):
        found.append(
            f"dropout rates are still about their start of {start:g} everywhere: the noise is not trained; train "
            "longer, or raise `--kl-weight`."
        )
    return tuple(found)


def mean_dropout(potential: VariationalPotential) -> torch.Tensor:
    """Mean p over the layers with noise and the atoms and edges last evaluated."""
    return _dropout(potential).mean()


def _dropout(potential: VariationalPotential) -> torch.Tensor:
    rates = torch.cat([each.rates().detach() for each in potential.maps()])
    return rates / (1.0 + rates)


def _is_new(body: Any) -> bool:
    return isinstance(body, TrainablePotential) and not body.has_reference


def _from(start: Any, noise: dict[str, Any]) -> VariationalPotential:
    start = representative(start)
    if isinstance(start, VariationalPotential):
        potential = copy.deepcopy(start)
        if not any(parameter.requires_grad for parameter in potential.parameters()):  # it has been a model since
            potential.body.requires_grad_(True)
            potential.rates.requires_grad_(potential.noise.law == "gaussian")
        return potential
    return make_variational(start, **{**FINE_TUNING, **noise})
