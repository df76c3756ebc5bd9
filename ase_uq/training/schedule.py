"""Learning-rate schedules: a smooth decay over the planned run, or a cut whenever the validation loss stalls."""

from __future__ import annotations

import math
from collections.abc import Sequence


def learning_rate_factor(schedule: str, *, progress: float, losses: Sequence[float], patience: int) -> float:
    """Return the factor on the initial learning rate.

    It is a pure function of the past, so a resumed training needs no state for it.

    Parameters
    ----------
    schedule
        "cosine": from 1 to 1 % along `progress`. "plateau": halved after every `patience` epochs without a new best
        validation loss. "constant": 1.
    progress
        Finished part of the training, 0 to 1: of its epochs or of its time budget, whichever is further.
    losses
        Validation losses of the epochs so far.
    patience
        Epochs, for "plateau".
    """
    if schedule == "cosine":
        return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
    if schedule == "plateau":
        return float(0.5 ** _stalls(losses, patience))
    return 1.0


def _stalls(losses: Sequence[float], patience: int) -> int:
    best, since, stalls = math.inf, 0, 0
    for value in losses:
        since = 0 if value < best else since + 1
        best = min(best, value)
        if since == patience:
            stalls, since = stalls + 1, 0
    return stalls
