"""The methods of `ase-uq train`, one line each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ase_uq.potentials import DeepEnsemble, ShallowEnsemble, VariationalEnsemble
from ase_uq.training.deep import train_members
from ase_uq.training.shallow import train_shallow
from ase_uq.training.variational import noise_warnings, train_variational


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train a model with uncertainty.

    Attributes
    ----------
    train
        Called with frames, `n_members`, `settings`, `config`, `start`, `device`, `state_dir`, `resume`, `on_epoch` and
        the `options` named here; returns the potential.
    potential
        What it can start from; the first is what it trains.
    parts
        Names of what `on_epoch` counts, for a number of members.
    n_members
        M where nothing is said.
    options
        Further options of the command line it takes.
    in_turn
        Whether those parts are done one after the other.
    warnings
        Called with what was trained, the frames and the options; sentences to print at the end.
    """

    train: Callable[..., Any]
    potential: type | tuple[type, ...]
    parts: Callable[[int], list[str]]
    n_members: int = 4
    options: tuple[str, ...] = ()
    in_turn: bool = False
    warnings: Callable[..., tuple[str, ...]] | None = None


METHODS = {
    "deep": Method(
        train_members, DeepEnsemble, lambda n: [f"member {m}" for m in range(n)], options=("subsample", "jobs")
    ),
    "blip": Method(
        train_variational,
        (VariationalEnsemble, DeepEnsemble, ShallowEnsemble),
        lambda _: ["mean", "noise"],
        n_members=16,  # they cost nothing in training and little in use, and know a standard deviation to 18 %
        options=("kl_weight",),
        in_turn=True,
        warnings=noise_warnings,
    ),
    "shallow": Method(train_shallow, ShallowEnsemble, lambda _: ["mean"], n_members=8),
}
