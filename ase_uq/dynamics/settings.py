"""`MDSettings`: how a run is done. The command line makes its options of the fields."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from ase_uq.errors import InputError
from ase_uq.options import check_options, option

ENSEMBLES = ("nvt", "nve", "npt")
BAROSTATS = ("mtk", "langevin")
# What they take where nothing is said: nothing but for gases tells 0 GPa from an atmosphere.
_AT_CONSTANT_PRESSURE = {"barostat": "mtk", "pressure_GPa": 0.0, "barostat_fs": 1000.0}
_THERMOSTAT_FS = 100.0
# Time steps; what is to follow faster than that is not integrated.
_SHORTEST = 10


@dataclass(frozen=True, slots=True)
class MDSettings:
    """How to run.

    Attributes
    ----------
    temperature_K
        Of the thermostat and of the initial velocities, K; with `temperature_end_K` at the first frame.
    steps
        Steps to do, those of earlier parts of a restarted run included.
    timestep_fs
        Time step, fs.
    ensemble
        "nvt" (Langevin), "nve" (velocity Verlet) or "npt" (isotropic: the cell keeps its shape).
    friction_per_ps
        Of the Langevin thermostat, 1/ps.
    pressure_GPa
        Of the barostat, GPa.
    barostat
        "mtk" (Martyna, Tobias and Klein, with chains of Nosé and Hoover) or "langevin" (Quigley and Probert, stochastic
        as the Langevin thermostat; needs ASE 3.27). Both sample at constant pressure.
    barostat_fs
        Time constant of the barostat, fs: cells swing several times in it.
    thermostat_fs
        Of the chains of "mtk", fs.
    equilibration_steps
        Steps before the first frame of the log, which are in no average; of the same dynamics.
    temperature_start_K
        Of the thermostat and of the initial velocities where the equilibration begins, K; it then goes linearly to
        `temperature_K`.
    temperature_end_K
        Of the thermostat where the run ends, K, if it is another one; it goes there linearly from the first frame on.
        Such a run has no averages.
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
        For a value of another type or out of range, or for another ensemble.
    """

    temperature_K: float = option(
        MISSING, "Temperature of the thermostat and of the initial velocities, K.", flag="temperature", above=0
    )
    steps: int = option(MISSING, "Number of steps, those before a restart included.", above=0)
    timestep_fs: float = option(0.5, "Time step, fs.", flag="timestep", above=0)
    ensemble: str = option(
        "nvt",
        "What is sampled: nvt (constant temperature, Langevin), nve (constant energy, velocity Verlet) or npt "
        "(constant temperature and pressure, isotropic).",
        choices=ENSEMBLES,
        cure="choose one",
    )
    friction_per_ps: float = option(10.0, "Friction of the Langevin thermostat, 1/ps.", flag="friction", above=0)
    pressure_GPa: float | None = option(None, "Pressure of npt, GPa.", flag="pressure", usual="0")
    barostat: str | None = option(
        None,
        "Barostat of npt: mtk (Martyna-Tobias-Klein, Nosé-Hoover chains) or langevin (stochastic).",
        choices=BAROSTATS,
        cure="choose one",
        usual="mtk",
    )
    barostat_fs: float | None = option(
        None, "Time constant of the barostat, fs.", flag="barostat_time", above=0, usual="1000"
    )
    thermostat_fs: float | None = option(
        None, "Time constant of the chains of mtk, fs.", flag="thermostat_time", above=0, usual="100"
    )
    equilibration_steps: int = option(0, "Steps before the first frame of the log.", flag="equilibration", at_least=0)
    temperature_start_K: float | None = option(
        None,
        "Temperature where the equilibration begins, K; it goes linearly to that of the run.",
        flag="temperature_start",
        above=0,
        usual="that of the run",
    )
    temperature_end_K: float | None = option(
        None,
        "Temperature where the run ends, K; it goes there linearly, and the run has no averages.",
        flag="temperature_end",
        above=0,
        usual="the same",
    )
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
        self._check_stages()
        if self.ensemble == "npt":
            self._complete(**_AT_CONSTANT_PRESSURE)
            self._check_barostat()
            return
        for name in (*_AT_CONSTANT_PRESSURE, "thermostat_fs"):
            if (value := getattr(self, name)) is not None:
                raise InputError(
                    f"`{name}` is of ensemble='npt', got {value!r} with {self.ensemble!r}; drop it, or run at constant "
                    "pressure."
                )

    @property
    def steps_between_averaged(self) -> int:
        """Steps from one frame of the running averages to the next."""
        return self.interval * max(1, round(self.average_interval / self.interval))

    def _check_stages(self) -> None:
        if self.temperature_end_K == self.temperature_K:
            object.__setattr__(self, "temperature_end_K", None)
        for name in ("temperature_start_K", "temperature_end_K"):
            if (value := getattr(self, name)) is not None and self.ensemble == "nve":
                raise InputError(f"`{name}` needs a thermostat, got {value:g} with ensemble 'nve'; drop it.")
        if self.temperature_start_K is not None and self.equilibration_steps == 0:
            raise InputError(
                f"`temperature_start_K` needs `equilibration_steps`, got {self.temperature_start_K:g} and none; say "
                "how many, or give `temperature_end_K` for a run whose temperature changes."
            )

    def _complete(self, **usual: object) -> None:
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_barostat(self) -> None:
        if self.barostat == "mtk":
            self._complete(thermostat_fs=_THERMOSTAT_FS)
        elif self.thermostat_fs is not None:
            raise InputError(
                f"`thermostat_fs` is of barostat='mtk', got {self.thermostat_fs:g} with {self.barostat!r}; drop it: "
                "there `friction_per_ps` sets the thermostat."
            )
        for name in ("barostat_fs", "thermostat_fs"):
            value = getattr(self, name)
            if value is not None and value < _SHORTEST * self.timestep_fs:
                raise InputError(
                    f"`{name}` must be at least {_SHORTEST} time steps of {self.timestep_fs:g} fs, got {value:g}; "
                    "take a longer one."
                )
