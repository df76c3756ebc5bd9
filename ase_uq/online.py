"""Averages over a committee while the run goes on, in one pass and constant memory.

The means of members come from `MemberBlocks`, the sampling error from `StreamingBlocking`.

=========================================  ================================================================
symbol                                     variable
=========================================  ================================================================
V, V_i                                     `energy_reference`, `energy_members[i]`
h_i = beta (V_i - V), mean over i          `h`, `mean_h`
a (1 - h) about both means                 the combination of (a, h, a h) asked of each stream
=========================================  ================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 28.
Flyvbjerg and Petersen, J. Chem. Phys. 91, 461 (1989): blocking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ase_uq.errors import InputError
from ase_uq.gates import Diagnostics, warnings_for
from ase_uq.jackknife import jackknife_blocks, jackknife_covariance, merge_blocks
from ase_uq.member_blocks import MemberBlocks
from ase_uq.prediction import Prediction
from ase_uq.reweighting import (
    METHODS,
    MIN_FRAMES,
    ModelError,
    check_method,
    disagreement,
    inverse_temperature,
    member_estimates,
    model_error,
)
from ase_uq.statistics import StreamingBlocking

Array = NDArray[np.float64]
Observable = Callable[[Atoms], float]


@dataclass(frozen=True, slots=True)
class OnlineResult:
    """Average of one observable so far, with its errors.

    The means are those of `reweight` on the same frames; the sampling error comes from streaming blocking alone ("cea")
    or from the block jackknife ("direct").

    Attributes
    ----------
    mean
        Mean over members of `member_means`.
    std_sampling
        Standard error of `mean` from the finite run; NaN before there are 20 frames, like the other errors.
    std_model
        Spread between members (divisor M - 1) without the part that is sampling noise.
    std_total
        sqrt(std_sampling^2 + std_model^2).
    warnings
        Sentences that say when not to believe the numbers; `reweight` on the log checks more.
    member_means
        (M,).
    n_frames
        T.
    method
        "cea" or "direct".
    std_model_naive
        Spread between members as it is.
    noise
        Sampling noise inside the squared spread.
    statistical_inefficiency
        g of the series a (1 - h) behind the mean, h being the average over members, from blocking.
    max_std_h
        Largest standard deviation of h_i along the run, kT.
    """

    mean: float
    std_sampling: float
    std_model: float
    std_total: float
    warnings: tuple[str, ...]
    member_means: Array
    n_frames: int
    method: str
    std_model_naive: float
    noise: float
    statistical_inefficiency: float
    max_std_h: float


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
        Name -> function of the atoms that returns one number.
    method
        "cea" (cumulant expansion) or "direct" (exponential weights).

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
        observables: Mapping[str, Observable],
        method: str = "cea",
    ) -> None:
        check_method(method)
        if not observables:
            raise InputError("`observables` must name at least one function of the atoms, got none; pass one.")
        self._atoms = atoms
        self._beta = inverse_temperature(temperature_K)
        self._observables = dict(observables)
        self._method = method
        self._streams = {name: StreamingBlocking() for name in observables}
        self._blocks: MemberBlocks | None = None
        self._origin = (np.zeros(0), 0.0)

    @property
    def n_frames(self) -> int:
        """Number of frames taken so far."""
        return 0 if self._blocks is None else int(self._blocks.sizes.sum())

    def __call__(self) -> None:
        """Take the present frame.

        Raises
        ------
        InputError
            If the calculator's results do not belong to the present atoms, or hold no members.
        """
        calculator = self._atoms.calc
        if calculator is None or "energy" not in calculator.results:
            raise InputError(
                "`atoms.calc` must hold the results of the present step, got none; attach the observer to a dynamics "
                "or call atoms.get_forces() first."
            )
        changes = calculator.check_state(self._atoms)
        if changes:
            raise InputError(
                f"`atoms` must be as they were when the energy was computed, got changed {', '.join(changes)}; "
                "attach the observer to a dynamics or call atoms.get_forces() first."
            )
        prediction: Prediction = calculator.prediction
        self.update(
            float(calculator.results["energy"]),
            prediction.require("energy_members", "OnlineReweighter"),
            {name: float(function(self._atoms)) for name, function in self._observables.items()},
        )

    def update(self, energy_reference: float, energy_members: ArrayLike, values: Mapping[str, float]) -> None:
        """Take one frame as numbers.

        Parameters
        ----------
        energy_reference
            eV, the energy the integrator saw.
        energy_members
            (M,), eV.
        values
            Name -> value, for all observables.

        Raises
        ------
        InputError
            If a number is not finite, a name is missing, or M is below 2 or changes. The frame is then not counted.
        """
        members = np.asarray(energy_members, dtype=np.float64)
        self._check(energy_reference, members, values)
        a = np.array([values[name] for name in self._observables], dtype=np.float64)
        h = self._beta * (members - energy_reference)
        if self._blocks is None:
            self._blocks = MemberBlocks(len(a), len(h))
            self._origin = (a, float(h.mean()))
        self._blocks.add(a, h)
        first_a, first_h = self._origin
        mean_h = float(h.mean()) - first_h
        for stream, value in zip(self._streams.values(), a - first_a, strict=True):
            stream.update([value, mean_h, value * mean_h])

    def results(self) -> dict[str, OnlineResult]:
        """Averages and errors so far, one entry per observable.

        Raises
        ------
        InputError
            If no frame has been taken.
        """
        if self._blocks is None:
            raise InputError("`results` needs at least one frame, got none; run the dynamics first.")
        return {name: self._result(k, self._streams[name]) for k, name in enumerate(self._observables)}

    def _check(self, energy_reference: float, members: Array, values: Mapping[str, float]) -> None:
        frame = f"in frame {self.n_frames}"
        changed = self._blocks is not None and members.shape != (self._blocks.n_members,)
        if members.ndim != 1 or len(members) < 2 or changed:
            raise InputError(
                f"`energy_members` must have shape (M,), M >= 2 and always the same, got {members.shape} {frame}; "
                "use one committee throughout."
            )
        if not (np.isfinite(energy_reference) and np.isfinite(members).all()):
            raise InputError(
                f"`energy_reference` and `energy_members` must be finite, got {energy_reference} and "
                f"{members} {frame}; look for overlapping atoms."
            )
        if values.keys() != self._observables.keys():
            raise InputError(
                f"`values` must name the observables {sorted(self._observables)}, got {sorted(values)}; pass them all."
            )
        for name, value in values.items():
            if not np.isfinite(value):
                raise InputError(f"observable `{name}` must be finite, got {value} {frame}; check its function.")

    def _result(self, k: int, stream: StreamingBlocking) -> OnlineResult:
        assert self._blocks is not None
        average, std_h, moments = self._blocks.moments(k)
        totals = np.einsum("b,bkm->km", self._blocks.sizes / self.n_frames, moments)
        shifts = member_estimates(totals)[METHODS.index(self._method)]
        if self.n_frames < MIN_FRAMES:
            unknown = f"only {self.n_frames} frames so far (at least {MIN_FRAMES} are needed): no error bars yet."
            errors = _Errors(np.nan, np.nan, ModelError(float(shifts.std(ddof=1)), np.nan, np.nan), (unknown,))
        else:
            errors = self._errors(stream, moments, totals, float(std_h.max()))
        return OnlineResult(
            mean=average + float(shifts.mean()),
            std_sampling=errors.sampling,
            std_model=errors.model.std,
            std_total=float(np.hypot(errors.sampling, errors.model.std)),
            warnings=errors.warnings,
            member_means=average + shifts,
            n_frames=self.n_frames,
            method=self._method,
            std_model_naive=errors.model.naive,
            noise=errors.model.noise,
            statistical_inefficiency=errors.g,
            max_std_h=float(std_h.max()),
        )

    def _errors(self, stream: StreamingBlocking, moments: Array, totals: Array, max_std_h: float) -> _Errors:
        assert self._blocks is not None
        mean_a, mean_h, _ = stream.mean
        # The influence a (1 - h) about both means, as a combination of the three series of the stream.
        blocked = stream.result([1.0 + mean_h, mean_a, -1.0])
        plain = float(blocked.std_by_level[0])
        # A gain from anticorrelation is not claimed, as in `reweight`.
        sampling = max(blocked.std, plain)
        g = (sampling / plain) ** 2 if plain > 0 else 1.0
        n_members = totals.shape[1]
        covariance = jackknife_covariance(
            _flat_estimates, *merge_blocks(moments, self._blocks.sizes, jackknife_blocks(self.n_frames, g))
        ).reshape(2, n_members, 2, n_members)
        which = METHODS.index(self._method)
        shifts = member_estimates(totals)[which]
        model = model_error(shifts, covariance[which, :, which])
        if self._method == "direct":
            sampling = float(np.sqrt(covariance[which, :, which].mean()))
        numbers = Diagnostics(
            method=self._method,
            n_members=n_members,
            n_frames=self.n_frames,
            g=g,
            plateau=blocked.plateau,
            max_std_h=max_std_h,
            std_mean_h=float(np.sqrt(stream.covariance[1, 1])),
            spread=model.naive**2,
            noise=model.noise,
            mean_shift=float(shifts.mean()),
            disagreement=disagreement(totals, covariance, self._blocks.kish / self.n_frames),
        )
        return _Errors(sampling, g, model, warnings_for(numbers))


@dataclass(frozen=True, slots=True)
class _Errors:
    sampling: float
    g: float
    model: ModelError
    warnings: tuple[str, ...]


def _flat_estimates(averages: Array) -> Array:
    estimates = member_estimates(averages)
    return estimates.reshape(*estimates.shape[:-2], -1)
