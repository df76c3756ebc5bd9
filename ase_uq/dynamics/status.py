"""What a run shows while it goes on: `Status` about twice a second, and the averages so far."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ase import Atoms

from ase_uq.averages.online import OnlineReweighter
from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.dynamics.settings import MDSettings
from ase_uq.reweighting.result import ReweightResult

_messages = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """What the live line shows.

    `step` is negative in the equilibration; `energy_std` in eV; `averages` are those of the running reweighing, empty
    while it has too few frames.
    """

    step: int
    steps: int
    ns_per_day: float
    temperature_K: float
    energy_std: float | None
    weight: float | None
    averages: Mapping[str, ReweightResult]


class Averaging:
    """Takes frames for the averages, if the model turns out to have members."""

    def __init__(self, calculator: PredictionCalculator, online: OnlineReweighter) -> None:
        self.calculator, self.online, self._said = calculator, online, False

    def __call__(self) -> None:
        """Take the present frame."""
        if self.calculator.prediction.energy_members is not None:
            self.online()
        elif not self._said:
            _messages.warning(
                "running averages need `energy_members`, which this model does not provide; the observables are logged"
            )
            self._said = True


class Reporter:
    """Calls back about twice a second, and at the end."""

    def __init__(
        self,
        on_status: Callable[[Status], None] | None,
        atoms: Atoms,
        online: OnlineReweighter | None,
        settings: MDSettings,
        done: int,
    ) -> None:
        self.on_status, self.atoms, self.online, self.settings, self.done = on_status, atoms, online, settings, done
        self._began = time.monotonic()
        self._next = 0.0

    def __call__(self, step: int) -> None:
        """Call back if it is time."""
        now = time.monotonic()
        last = step >= self.settings.steps
        if self.on_status is None or (now < self._next and not last):
            return
        self._next = now + 0.5
        days = max(now - self._began, 1e-9) / 86400.0
        calculator: Any = self.atoms.calc
        self.on_status(
            Status(
                step,
                self.settings.steps,
                (step - self.done) * self.settings.timestep_fs * 1e-6 / days,
                float(self.atoms.get_temperature()),
                calculator.prediction.energy_std,
                calculator.results.get("weight"),
                averages_of(self.online, numbers_only=True),
            )
        )


def averages_of(online: OnlineReweighter | None, *, numbers_only: bool = False) -> Mapping[str, ReweightResult]:
    """Return the averages so far, empty without frames; `numbers_only` as for `OnlineReweighter.results`."""
    return online.results(numbers_only=numbers_only) if online is not None and online.n_frames else {}
