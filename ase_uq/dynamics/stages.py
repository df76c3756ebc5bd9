"""The stages of a run: an equilibration, whose frames nobody sees, and the run itself; and the temperature in both.

Steps of the equilibration count from -E to 0, those of the run from 0 on: the log begins at step 0 and time 0, and what
is in it belongs to averages. Frames of an equilibration are not logged, as is the custom; nothing in a log has to be
left out by who reads it, and nothing can be forgotten. The state for a restart is written throughout.

====================  ================================================  ======================
stage                 steps                                             temperature
====================  ================================================  ======================
equilibration         -`equilibration_steps` to 0                       from `temperature_start_K` to `temperature_K`
run                   0 to `steps`                                      from `temperature_K` to `temperature_end_K`
====================  ================================================  ======================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ase.md.md import MolecularDynamics

from ase_uq.dynamics.settings import MDSettings


def whole_steps(
    dynamics: MolecularDynamics, settings: MDSettings, heat: Callable[[Any, float], None] | None
) -> Iterator[None]:
    """Do the steps that are left of a run, and yield after each, and before the first.

    Parameters
    ----------
    dynamics
        At the step it starts from or goes on from.
    settings
        Of the run.
    heat
        Gives the dynamics a target temperature, K.
    """
    heat = heat if has_ramp(settings) else None
    if dynamics.nsteps:
        # As the interrupted run did at this step: the same evaluations in the same order.
        dynamics.atoms.get_forces()
    if dynamics.nsteps > 0:
        dynamics.call_observers()
    if dynamics.nsteps < 0:
        observers, dynamics.observers = dynamics.observers, []
        try:
            yield from _heated(dynamics, -dynamics.nsteps, settings, heat)
        finally:
            dynamics.observers = observers
    yield from _heated(dynamics, settings.steps - dynamics.nsteps, settings, heat)


def _heated(
    dynamics: MolecularDynamics, steps: int, settings: MDSettings, heat: Callable[[Any, float], None] | None
) -> Iterator[None]:
    for _ in dynamics.irun(steps):
        yield
        if heat is not None:
            # For the step that comes.
            heat(dynamics, temperature_at(dynamics.nsteps, settings))


def has_ramp(settings: MDSettings) -> bool:
    """Whether the target temperature changes at all."""
    return settings.temperature_start_K is not None or settings.temperature_end_K is not None


def temperature_at(step: int, settings: MDSettings) -> float:
    """Return the target temperature, K, of the step that follows `step`; linear in both stages."""
    own = settings.temperature_K
    if step < 0:
        start, begun = settings.temperature_start_K, 1.0 + step / settings.equilibration_steps
        return own if start is None else start + (own - start) * begun
    end = settings.temperature_end_K
    return own if end is None else own + (end - own) * (step / settings.steps)


def schedule_of(settings: MDSettings) -> dict[str, Any]:
    """Return what tells the stages of two runs apart; the steps of a run count where its temperature goes by them."""
    return {
        "equilibration_steps": settings.equilibration_steps,
        "temperature_start_K": settings.temperature_start_K,
        "temperature_end_K": settings.temperature_end_K,
        "steps": None if settings.temperature_end_K is None else settings.steps,
    }
