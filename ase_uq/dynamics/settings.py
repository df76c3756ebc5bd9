"""`MDSettings`: how a run is done. The command line makes its options of the fields."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from ase_uq.options import check_options, option

ENSEMBLES = ("nvt", "nve")


@dataclass(frozen=True, slots=True)
class MDSettings:
    """How to run.

    Attributes
    ----------
    temperature_K
        Of the thermostat and of the initial velocities, K.
    steps
        Steps to do, those of earlier parts of a restarted run included.
    timestep_fs
        Time step, fs.
    ensemble
        "nvt" (Langevin) or "nve" (velocity Verlet).
    friction_per_ps
        Of the Langevin thermostat, 1/ps.
    interval
        Steps from one logged frame to the next.
    average_interval
        Steps between frames of the running averages. They take frames of the log, so that a restart knows those of
        earlier parts: the multiple of `interval` that is closest counts.
    explosion_limit
        How far outside of what it started from a run may get before it stops, in units of what chance gives, see
        `ase_uq.log.explosion`; 0 never stops it.
    seed
        Of velocities and thermostat.

    Raises
    ------
    InputError
        For a value of another type or out of range.
    """

    temperature_K: float = option(
        MISSING, "Temperature of the thermostat and of the initial velocities, K.", flag="temperature", above=0
    )
    steps: int = option(MISSING, "Number of steps, those before a restart included.", above=0)
    timestep_fs: float = option(0.5, "Time step, fs.", flag="timestep", above=0)
    ensemble: str = option(
        "nvt",
        "What is sampled: nvt (constant temperature, Langevin) or nve (constant energy, velocity Verlet).",
        choices=ENSEMBLES,
        cure="choose one",
    )
    friction_per_ps: float = option(10.0, "Friction of the Langevin thermostat, 1/ps.", flag="friction", above=0)
    interval: int = option(1, "Steps from one logged frame to the next.", above=0)
    average_interval: int = option(10, "Steps between frames of the running averages.", above=0, at_shell=False)
    explosion_limit: float = option(
        3.0,
        "A run stops as exploded when temperature or energy are so many times outside of what chance gives; 0: never.",
        at_least=0,
    )
    seed: int = option(0, "Seed of the initial velocities and of the thermostat.", at_least=0)

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def steps_between_averaged(self) -> int:
        """Steps from one frame of the running averages to the next."""
        return self.interval * max(1, round(self.average_interval / self.interval))
