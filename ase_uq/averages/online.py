"""Averages over the members of a model while the run goes on, in one pass and constant memory.

Frames wait until there are enough of them to be summed together (`FrameBlocks`); results are those of `reweight`.

=========================================  ================================================================
symbol                                     variable
=========================================  ================================================================
V, V_i                                     `energy_reference`, `energy_members[i]`
h_i = beta (V_i - V)                       `_differences`, kT
=========================================  ================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 28.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_changes
from ase.units import fs
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.averages.circle import Circle
from ase_uq.averages.gaps import Place, check_any_value, without_values
from ase_uq.averages.run_checks import run_gates
from ase_uq.averages.run_series import RunSeries, attributes_of_dynamics
from ase_uq.calculators.calculator import PredictionCalculator
from ase_uq.calculators.driven import added_energy, driving_calculator, temperature
from ase_uq.errors import InputError
from ase_uq.log.reader import RunLog
from ase_uq.observables.observable import ObservableLike, named_observables
from ase_uq.observables.observing import Observing
from ase_uq.reweighting import check_relaxation, inverse_temperature
from ase_uq.reweighting.columns import check_method, columns_for
from ase_uq.reweighting.error_bars import average
from ase_uq.reweighting.frame_blocks import FrameBlocks
from ase_uq.reweighting.gate import sentences
from ase_uq.reweighting.question import Question
from ase_uq.reweighting.result import ReweightResult
from ase_uq.reweighting.spread import SpreadLaw
from ase_uq.reweighting.thermostat import thermostat_time_fs
from ase_uq.uncertainty.prediction import Prediction

_WAITING = 64  # frames summed together: a matrix product instead of many small ones


class OnlineReweighter:
    """Observer that keeps averages with error bars during molecular dynamics.

    It reads what the calculator has already computed and never starts a calculation.

    Parameters
    ----------
    atoms
        The atoms being moved; their calculator must publish `prediction` with members.
    temperature_K
        Target temperature of the thermostat.
    observables
        Name to a function of the atoms that returns a number or an array of always the same shape, (function, unit), or
        an `Observable`; one `of_members` returns a value for each member of the model, (M, ...), as `MemberEnergies`.
    method
        "cea" (cumulant expansion), "direct" (exponential weights) or "gap" (mean energy gap; for histograms, whose bins
        are fixed from the start).
    log_weight
        Function of the atoms: logarithm of the weight of a frame, U_bias/kT, in a biased run. By default that of the
        bias the calculator (`BiasedCalculator`) or a constraint with an energy has added; `False` averages a biased run
        as it is.
    relaxation_frames
        Relaxation time of the thermostat in calls of this observer, as for `reweight`; by default that of `dyn`.
    alpha
        Calibration factor inside the members; widens intervals by the error of the members' mean. By default what the
        calculator says, which knows, too, whether its members are pinned to their mean.
    dyn
        The dynamics; names the ensemble and the thermostat, with its relaxation time, in the checks of the run and for
        its sampling errors.

    Raises
    ------
    InputError
        If the temperature is not positive, the method does not exist or there are no observables.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> online = OnlineReweighter(Atoms("H"), temperature_K=300.0, observables={"x": lambda atoms: 0.0})
    >>> for x in rng.normal(size=5000):
    ...     online.update(0.0, 0.01 * x * np.array([-1.0, -0.5, 0.5, 1.0]), {"x": x})
    >>> online.results()["x"].member_means.round(1).tolist()
    [0.4, 0.2, -0.2, -0.4]
    """

    def __init__(
        self,
        atoms: Atoms,
        *,
        temperature_K: float,
        observables: Mapping[str, ObservableLike],
        method: str = "cea",
        log_weight: Callable[[Atoms], float] | Literal[False] | None = None,
        relaxation_frames: float | None = None,
        alpha: float | None = None,
        dyn: Any = None,
    ) -> None:
        check_method(method)
        check_relaxation(relaxation_frames or 0.0)
        if not observables:
            raise InputError("`observables` must name at least one function of the atoms, got none; pass one.")
        self._atoms = atoms
        self._beta = inverse_temperature(temperature_K)
        self._attributes = attributes_of_dynamics(dyn, temperature_K)
        self._run = RunSeries(self._attributes)
        self._observables = named_observables(observables)
        self._observing = Observing(self._observables)
        # Observables that had no value in some frame, each with sums of its own over the others.
        self._gapped: dict[str, FrameBlocks] = {}
        self._method, self._log_weight = method, log_weight
        self._law = None if alpha is None else SpreadLaw(alpha)
        self._relaxation_frames, self._dyn = relaxation_frames, dyn
        self._steps: list[int] = []  # of the first and the last call
        self._blocks: FrameBlocks | None = None
        self._places: dict[str, Place] = {}
        self._waiting: list[tuple[Array, Array, float, float]] = []
        self._missing: list[set[str]] = []  # names without a value in each of them
        self._n_members = 0
        self._weighted = callable(log_weight)

    @property
    def n_frames(self) -> int:
        """Number of frames taken so far."""
        return len(self._waiting) + (0 if self._blocks is None else self._blocks.n_frames)

    def __call__(self) -> None:
        """Take the present frame, once, also where dynamics that go on call for it again.

        Raises
        ------
        InputError
            If the calculator's results do not belong to the present atoms, or hold no members.
        """
        if self._dyn is not None and self._steps[-1:] == [int(self._dyn.nsteps)]:
            return
        calculator = None if self._atoms.calc is None else driving_calculator(self._atoms)
        if calculator is None or "energy" not in calculator.results:
            raise InputError(
                "`atoms.calc` must hold the results of the present step, got none; attach the observer to a dynamics "
                "or call atoms.get_forces() first."
            )
        changes = [name for name in calculator.check_state(self._atoms) if name in all_changes]
        if changes:
            raise InputError(
                f"`atoms` must be as they were when the energy was computed, got changed {', '.join(changes)}; "
                "attach the observer to a dynamics or call atoms.get_forces() first."
            )
        prediction: Prediction = calculator.prediction
        if self._law is None:
            self._law = SpreadLaw(prediction.alpha, prediction.mean_share, prediction.dof)
        self.update(
            float(calculator.results["energy"]),
            prediction.require("energy_members", "OnlineReweighter"),
            self._observing.values(self._atoms, f"frame {self.n_frames}"),
            log_weight=self._weight(),
        )
        self._see(calculator)

    def update(
        self,
        energy_reference: float,
        energy_members: ArrayLike,
        values: Mapping[str, ArrayLike],
        *,
        log_weight: float = 0.0,
    ) -> None:
        """Take one frame as numbers.

        Parameters
        ----------
        energy_reference
            eV, the energy the integrator saw.
        energy_members
            (M,), eV.
        values
            Name -> value, for all observables; NaN for what has none in this frame, which its average leaves out.
        log_weight
            Of a biased run.

        Raises
        ------
        InputError
            If an energy or a weight is not finite, a name is missing, or M or a shape changes. The frame is then not
            counted.
        """
        members = np.asarray(energy_members, dtype=np.float64)
        self._update(energy_reference, members, members - energy_reference, values, log_weight)

    def take_logged(self, run: RunLog, frames: NDArray[np.int64]) -> None:
        """Take frames of an earlier part of the run from its log, as if they had been seen.

        Parameters
        ----------
        run
            What the logger of the run has written, with members and all observables.
        frames
            Which of its frames, in their order.
        """
        differences, weights, bias = run.energy_members_minus_energy, run.log_weights, run.bias_energy
        members = run.energy_members
        if differences is None or members is None:
            raise InputError(f"`run` must have members, {run.path} has none; log a model with members.")
        self._law = self._law or SpreadLaw.of_log(run.attributes)
        self._steps = self._steps[:1] or [int(run.step[frames[0]])]
        own = self._log_weight is None and weights is not None
        self._weighted = self._weighted or own
        for t in frames:
            values = {name: run.observables[name][t] for name in self._observables}
            log_weight = float(weights[t]) if own and weights is not None else 0.0
            self._update(float(run.energy[t]), np.asarray(members[t]), np.asarray(differences[t]), values, log_weight)
            self._run.add(
                energy=float(run.energy[t]),
                kinetic_energy=float(run.kinetic_energy[t]),
                temperature_K=float(run.temperature_K[t]),
                volume=float(run.volume[t]),
                weight=None if run.weight is None else float(run.weight[t]),
                bias_energy=None if bias is None else float(bias[t]),
            )

    def _update(
        self,
        energy_reference: float,
        members: Array,
        differences: Array,
        values: Mapping[str, ArrayLike],
        log_weight: float,
    ) -> None:
        given = {name: np.asarray(value, dtype=np.float64) for name, value in values.items()}
        self._check(energy_reference, members, given, log_weight)
        if self._blocks is None:
            self._begin(given, len(members))
        parts, missing = [], set()
        for name, place in self._places.items():
            row, known = place.row(given[name])
            if not known:
                self._leave_out(name)
                missing.add(name)
            parts.append(row)
        self._waiting.append((np.concatenate(parts), self._beta * differences, log_weight, energy_reference))
        self._missing.append(missing)
        if len(self._waiting) == _WAITING:
            self._settle()

    def results(self, *, numbers_only: bool = False) -> dict[str, ReweightResult]:
        """Averages and errors so far, one entry per observable; the errors are NaN before there are 20 frames.

        Gates and warnings begin with those of the run, for frames that came from the atoms.

        Parameters
        ----------
        numbers_only
            Leave out vectors and the checks of the run, which take longer: for a line that is printed twice a second.

        Raises
        ------
        InputError
            If no frame has been taken, or an observable had no value in any.
        """
        if self._blocks is None:
            raise InputError("`results` needs at least one frame, got none; run the dynamics first.")
        self._settle()
        more: dict[str, Any] = {
            "law": self._law or SpreadLaw(),
            "biased": self._weighted,
            "relaxation_frames": self._relaxation(),
        }
        found = {
            name: self._answer(name, place, replace(place.columns.question, **more))
            for name, place in self._places.items()
            if not (numbers_only and place.columns.question.shape)
        }
        run = (
            None
            if numbers_only
            else self._run.run(
                # A frame is the unit of time there.
                {**self._attributes, "alpha": more["law"].alpha, "thermostat_time_fs": more["relaxation_frames"]}
            )
        )
        if run is None:
            return found
        gates = run_gates(run, unbiased=not self._weighted)
        return {
            name: replace(each, gates=(*gates, *each.gates), warnings=(*sentences(gates), *each.warnings))
            for name, each in found.items()
        }

    def _answer(self, name: str, place: Place, question: Question) -> ReweightResult:
        assert self._blocks is not None
        blocks, observable = self._gapped.get(name, self._blocks), self._observables[name]
        check_any_value(name, blocks.n_frames, self.n_frames)
        found = average(blocks.result().columns(place.where), question)
        told = without_values(place.circle.told(found), name, self.n_frames - blocks.n_frames, place.circle.gates(name))
        return replace(told, unit=observable.unit, axis=observable.axis)

    def _leave_out(self, name: str) -> None:
        """From the first frame without a value on an observable has sums of its own, which begin as the others are."""
        if name not in self._gapped and self._blocks is not None:
            self._settle()
            self._gapped[name] = copy.deepcopy(self._blocks)

    def _relaxation(self) -> float:
        if self._relaxation_frames is not None or self._dyn is None or len(self._steps) < 2 or self.n_frames < 2:
            return self._relaxation_frames or 0.0
        steps_apart = (self._steps[1] - self._steps[0]) / (self.n_frames - 1)
        apart_fs = steps_apart * float(self._dyn.dt) / fs
        return thermostat_time_fs(self._dyn) / apart_fs if apart_fs > 0 else 0.0

    def _see(self, calculator: PredictionCalculator) -> None:
        atoms, added = self._atoms, added_energy(self._atoms)
        kinetic = float(atoms.get_kinetic_energy())
        if self._dyn is not None:
            self._steps = [*self._steps[:1], int(self._dyn.nsteps)]
        self._attributes["driver"] = getattr(calculator, "driver", "model")
        self._attributes["constraints"] = ", ".join(type(constraint).__name__ for constraint in atoms.constraints)
        self._run.add(
            energy=float(calculator.results["energy"]) + (0.0 if added is None else added.of_constraints),
            kinetic_energy=kinetic,
            temperature_K=temperature(atoms, kinetic),
            volume=float(atoms.get_volume()) if atoms.cell.rank == 3 else np.nan,
            weight=calculator.results.get("weight"),
            bias_energy=None if added is None else added.total,
        )

    def _weight(self) -> float:
        if callable(self._log_weight):
            return float(self._log_weight(self._atoms))
        added = None if self._log_weight is False else added_energy(self._atoms)
        self._weighted = self._weighted or added is not None
        return 0.0 if added is None else self._beta * added.total

    def _begin(self, values: Mapping[str, Array], n_members: int) -> None:
        start = 0
        for name, observable in self._observables.items():
            own = "paired" if observable.of_members else None
            if self._method == "gap" and values[name].ndim == 0:
                raise InputError(
                    f"`observables[{name!r}]` must be a histogram for method 'gap' during a run, got one number; wrap "
                    "it in `Histogram` with its bins, or reweigh the log afterwards."
                )
            columns = columns_for(values[name][None], self._method, own, n_members)
            circle = Circle(observable.period, observable.unit)
            self._places[name] = Place(columns, slice(start, start + columns.n), values[name].shape, circle)
            start += columns.n
        self._n_members = n_members
        self._blocks = FrameBlocks(start, n_members, weighted=self._method == "direct", centred=self._method != "gap")

    def _settle(self) -> None:
        if not self._waiting:
            return
        assert self._blocks is not None
        columns, h, logs, energy = (np.array(part) for part in zip(*self._waiting, strict=True))
        self._weighted = self._weighted or bool(logs.any())
        self._blocks.add(columns, h, logs if self._weighted else None, energy)
        for name, blocks in self._gapped.items():
            kept = np.array([name not in missing for missing in self._missing])
            if kept.any():
                blocks.add(columns[kept], h[kept], logs[kept] if self._weighted else None, energy[kept])
        self._waiting, self._missing = [], []

    def _check(self, energy_reference: float, members: Array, values: Mapping[str, Array], log_weight: float) -> None:
        frame = f"in frame {self.n_frames}"
        changed = self._blocks is not None and members.shape != (self._n_members,)
        if members.ndim != 1 or len(members) < 2 or changed:
            raise InputError(
                f"`energy_members` must have shape (M,), M >= 2 and always the same, got {members.shape} {frame}; "
                "use one model throughout."
            )
        if not (np.isfinite(energy_reference) and np.isfinite(members).all() and np.isfinite(log_weight)):
            raise InputError(
                f"`energy_reference`, `energy_members` and `log_weight` must be finite, got {energy_reference}, "
                f"{members} and {log_weight} {frame}; look for overlapping atoms."
            )
        if values.keys() != self._observables.keys():
            raise InputError(
                f"`values` must name the observables {sorted(self._observables)}, got {sorted(values)}; pass them all."
            )
        for name, value in values.items():
            if self._places and value.shape != self._places[name].shape:
                raise InputError(
                    f"observable `{name}` must keep its shape {self._places[name].shape}, got {value.shape} {frame}; "
                    "check its function."
                )
