"""`FitSettings`: how one potential is trained, whatever the method."""

from __future__ import annotations

from dataclasses import dataclass

from ase_uq.options import check_options, option

SCHEDULES = ("cosine", "plateau", "constant")


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of the three terms of a loss."""

    energy: float
    forces: float
    stress: float


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to train.

    Attributes
    ----------
    epochs, minutes
        Whichever ends first; `minutes` is a time budget for each member.
    batch_size
        Structures a step.
    learning_rate, amsgrad, schedule
        Of Adam; the schedule is "cosine", "plateau" or "constant".
    patience, stop_after
        Epochs without a better validation loss before "plateau" halves the rate, and before training stops early. Under
        "cosine" it never does: while the rate is high, a stall says nothing.
    ema
        Decay of the moving average of the weights, per step.
    clip
        Largest norm of the gradient.
    energy_weight, forces_weight, stress_weight
        Weights of the loss terms, see `ase_uq.training.losses`.
    energy_stage
        Part of a training with the "cosine" schedule, at its end, in which the weight of energies rises where they are
        left behind, at the cost of forces, see `ase_uq.training.balance`; 0, as by default, for none.
    seed
        Of the data order.
    """

    epochs: int = option(200, "Training passes over the data.", above=0, usual="200; with --minutes, no limit")
    minutes: float | None = option(
        None,
        "Time budget, minutes (deep: of each member); stops in good order with the best weights.",
        above=0,
    )
    batch_size: int = option(5, "Structures in one step of the optimiser.", above=0)
    learning_rate: float = option(
        0.01, "Learning rate of the optimiser, Adam.", above=0, usual="0.01; 0.001 with --from"
    )
    amsgrad: bool = option(True, "Whether Adam keeps the largest of its second moments.", at_shell=False)
    schedule: str = option(
        "cosine",
        "How the learning rate falls: cosine, plateau (halved when the loss stalls) or constant.",
        choices=SCHEDULES,
        cure="choose one",
    )
    patience: int = option(25, "Epochs without a better loss before plateau halves the rate.", above=0, at_shell=False)
    stop_after: int = option(100, "Epochs without a better loss before training stops.", above=0, at_shell=False)
    ema: float = option(
        0.99,
        "Decay of the moving average of the weights.",
        at_least=0,
        below=1,
        cure="0.99 is usual",
        at_shell=False,
    )
    clip: float = option(10.0, "Largest norm of the gradient.", above=0, at_shell=False)
    energy_weight: float = option(10.0, "Weight of the energies (eV per atom) in the loss.", at_least=0)
    forces_weight: float = option(1.0, "Weight of the forces (eV/Å) in the loss.", at_least=0)
    stress_weight: float = option(1.0, "Weight of the virials (eV per atom) in the loss.", at_least=0)
    energy_stage: float = option(
        0.0,
        "Part of the training, at its end, in which the weight of energies rises where they are left behind, at the "
        "cost of forces (0.5, say). With --schedule cosine.",
        at_least=0,
        below=1,
        cure="0 leaves the weights alone",
    )
    seed: int = option(0, "Seed of weights, data order, split and sub-samples.", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def weights(self) -> Weights:
        """The weights of the loss."""
        return Weights(self.energy_weight, self.forces_weight, self.stress_weight)
