"""What logs say about the bias of their runs: the weights that take it away, and what it added to the energies.

=========================================  ================================================================
symbol                                     variable
=========================================  ================================================================
B                                          `bias_energy` of the log, or a logged observable
b = exp(beta B)                            weight of a frame, `log_weights` = beta B
=========================================  ================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.log.columns import OBSERVABLES, key_of, name_of
from ase_uq.log.parts import LogPart, dataset_of, finite
from ase_uq.log.reader import OpenLog, bias_by_hand

RECORDED = "bias_energy"

Bias = str | Literal[False] | None
"""Name of an observable with the bias energy; `None`, what the run recorded itself; `False`, no weights."""


@dataclass(frozen=True, slots=True)
class LoggedBias:
    """Datasets with a bias energy, eV, by their keys in the log.

    Attributes
    ----------
    weights
        Of the weights of the frames, `None` for averages of the run as it was.
    added
        Of what `energy` has on top of the potential.
    """

    weights: str | None
    added: str | None

    def log_weights(self, log: OpenLog, rows: slice, beta: float) -> Array | None:
        """Logarithms of the weights of some frames, (t,)."""
        return None if self.weights is None else beta * finite(self.weights, log.datasets[self.weights][rows])

    def energy(self, log: OpenLog, rows: slice) -> Array:
        """Energy that drove the run without the bias, (t,), eV."""
        energy: Array = log.datasets["energy"][rows]
        return energy if self.added is None else energy - finite(self.added, log.datasets[self.added][rows])


def logged_bias(parts: Sequence[LogPart], bias: Bias, target: str) -> LoggedBias:
    """Find the bias of one or several logs.

    Raises
    ------
    InputError
        For a name that is no logged energy, logs of which only some are biased, or energies that cannot be told without
        a bias the log hints at and does not name.
    """
    recorded = [RECORDED in part.log.datasets for part in parts]
    if any(recorded) != all(recorded):
        biased, free = (parts[recorded.index(each)].log.path for each in (True, False))
        raise InputError(
            f"`runs` must be logs of one potential, {biased} is of a biased run and {free} is not; reweigh them apart,"
            " or join states with `ase_uq.reweighting.multistate`."
        )
    own = RECORDED if all(recorded) else None
    if isinstance(bias, str):
        dataset = dataset_of(parts, bias, "bias")
        if dataset.ndim != 1 or dataset.attrs["unit"] != "eV" or not key_of(bias).startswith(OBSERVABLES):
            raise InputError(
                f"`bias` must be a logged number in eV, {bias!r} has shape {dataset.shape[1:]} and unit "
                f"{dataset.attrs['unit']!r}; log the energy of the bias with its unit."
            )
        # Given by hand it may hold more than the run felt, a Jacobian for instance.
        return LoggedBias(key_of(bias), own or key_of(bias))
    log = parts[0].log
    by_hand = bias_by_hand({name_of(key): d.attrs["unit"] for key, d in log.datasets.items()})
    if own is None and by_hand is not None and target == "model" and "weight" in log.datasets:
        raise InputError(
            f"`bias` must name the energy of the bias for target 'model', {log.path} has logged {by_hand!r} and not "
            f"said what it is; pass bias={by_hand!r} if that is it."
        )
    return LoggedBias(own if bias is None else None, own)
