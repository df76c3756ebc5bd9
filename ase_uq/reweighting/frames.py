"""What `reweight` is given, checked: the frames of one run or of several, in one form.

========================================  =========================================================
symbol                                    variable
========================================  =========================================================
beta = 1/(kB T)                           `beta`, 1/eV
V_i, V                                    `members[:, i]`, `reference`
h_i = beta (V_i - V)                      `reduced`
b = exp(l)                                `log_weights`, l
========================================  =========================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase.units import kB
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting.error_bars import MIN_FRAMES

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames of runs, finite and of equal number.

    Attributes
    ----------
    observable, members, reference
        (T, ...); (T, M) and (T,), eV.
    beta
        1/eV, one number or (T,).
    log_weights
        (T,), or `None` for runs without a bias.
    run_ends
        Frames at which a run ends, T among them.
    energy_step
        What the energies resolve, kT.
    """

    observable: Array
    members: Array
    reference: Array
    beta: float | Array
    log_weights: Array | None
    run_ends: NDArray[np.int64]
    energy_step: float

    @classmethod
    def checked(
        cls,
        observable: ArrayLike,
        energy_members: ArrayLike,
        energy_reference: ArrayLike,
        temperature_K: ArrayLike,
        log_weights: ArrayLike | None,
        runs: ArrayLike | None,
    ) -> Frames:
        """Take the arguments of `reweight`.

        Raises
        ------
        InputError
            For shapes that do not match, too few frames or members, a value that is not finite, or a temperature that
            is not positive.
        """
        a = np.asarray(observable, dtype=np.float64)
        members = np.asarray(energy_members, dtype=np.float64)
        reference = np.asarray(energy_reference, dtype=np.float64)
        if a.ndim == 0 or len(a) < MIN_FRAMES or a.size == 0:
            raise InputError(
                f"`observable` must have one value a frame, at least {MIN_FRAMES} of them, got shape {a.shape}; "
                "run longer."
            )
        t = len(a)
        if members.ndim == 2 and members.shape[0] != t and members.shape[1] == t:
            members = members.T
        if members.ndim != 2 or len(members) != t:
            raise InputError(
                f"`energy_members` must have shape ({t}, M), got {members.shape}; match frames by step number."
            )
        if members.shape[1] < 2:
            raise InputError(f"`energy_members` must hold at least 2 members, got {members.shape[1]}; add members.")
        kelvin, logs, labels = (None if x is None else np.asarray(x) for x in (temperature_K, log_weights, runs))
        assert kelvin is not None
        rows = {"energy_reference": reference, "log_weights": logs, "runs": labels}
        if kelvin.ndim:
            rows["temperature_K"] = kelvin
        for name, array in rows.items():
            if array is not None and array.shape != (t,):
                raise InputError(
                    f"`{name}` must have one value a frame, ({t},), got {array.shape}; match frames by step."
                )
        for name, array in ({"observable": a, "energy_members": members} | rows).items():
            if array is not None and name != "runs":  # labels may be words
                _refuse_infinite(name, np.asarray(array, dtype=np.float64))
        beta = np.array([inverse_temperature(float(k)) for k in np.unique(kelvin)])
        step = max(_single_precision_step(energy_members), _single_precision_step(energy_reference))
        return cls(
            observable=a,
            members=members,
            reference=reference,
            beta=float(beta[0]) if kelvin.ndim == 0 else 1.0 / (kB * kelvin),
            log_weights=None if logs is None else logs.astype(np.float64),
            run_ends=_run_ends(labels, t),
            energy_step=float(beta.max()) * step,
        )

    @property
    def at_several_temperatures(self) -> bool:
        """Whether temperatures differ between frames."""
        return np.ndim(self.beta) > 0 and len(np.unique(self.beta)) > 1

    def chunks(self) -> Iterator[tuple[slice, bool]]:
        """Stretches of all frames, and whether a run ends with them."""
        start = 0
        for end in self.run_ends.tolist():
            for first in range(start, end, _CHUNK):
                yield slice(first, min(first + _CHUNK, end)), first + _CHUNK >= end
            start = end

    def in_order(self, order: NDArray[np.int64]) -> Frames:
        """Return the frames in another order."""
        logs, beta = self.log_weights, self.beta
        return replace(
            self,
            observable=self.observable[order],
            members=self.members[order],
            reference=self.reference[order],
            log_weights=None if logs is None else logs[order],
            beta=beta if np.ndim(beta) == 0 else np.asarray(beta)[order],
        )

    def reduced(self, part: slice | Array) -> Array:
        """Energy differences h_i of some frames, (t, M)."""
        beta = self.beta if np.ndim(self.beta) == 0 else np.asarray(self.beta)[part, None]
        return np.asarray(beta * (self.members[part] - self.reference[part, None]))

    def shift_by_temperature(self, *, weighted: bool) -> Array:
        """What to subtract from h_i so that members reweigh within each temperature, (T, 1 or M)."""
        if np.ndim(self.beta) == 0:
            return np.zeros((len(self.reference), 1))
        shift = np.empty_like(self.members)
        for beta in np.unique(self.beta):
            there = self.beta == beta
            h = self.reduced(there)
            logs = np.zeros(len(h)) if self.log_weights is None else self.log_weights[there]
            b = np.exp(logs - logs.max())
            lowest = h.min(axis=0)
            shift[there] = lowest - np.log(b @ np.exp(lowest - h) / b.sum()) if weighted else b @ h / b.sum()
        return shift

    def with_residuals(self) -> Array:
        """Observable (T, 2, ...): about its mean at each temperature, moved to the mean over all, and as it is."""
        a = self.observable
        logs = np.zeros(len(a)) if self.log_weights is None else self.log_weights
        b = np.exp(logs - logs.max())
        residuals = a + np.tensordot(b, a, axes=1) / b.sum()
        for beta in np.unique(self.beta):
            there = self.beta == beta
            residuals[there] -= np.tensordot(b[there], a[there], axes=1) / b[there].sum()
        return np.stack([residuals, a], axis=1)


def inverse_temperature(temperature_K: float) -> float:
    """Return 1/(kB T), 1/eV, for a temperature in K."""
    if not (np.isfinite(temperature_K) and temperature_K > 0):
        raise InputError(f"`temperature_K` must be positive, got {temperature_K}; pass the thermostat's target in K.")
    return 1.0 / (kB * temperature_K)


def _refuse_infinite(name: str, array: Array) -> None:
    bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
    if len(bad):
        raise InputError(f"`{name}` must be finite, got {array[bad[0]]} in frame {bad[0]}; drop that frame.")


def _run_ends(labels: NDArray[Any] | None, n_frames: int) -> NDArray[np.int64]:
    if labels is None:
        return np.array([n_frames])
    ends = np.append(np.flatnonzero(labels[1:] != labels[:-1]) + 1, n_frames)
    if len(np.unique(labels)) != len(ends):
        raise InputError(
            f"`runs` must keep the frames of a run together, got {len(ends)} stretches of {len(np.unique(labels))} "
            "runs; sort frames by run."
        )
    return ends


def _single_precision_step(energies: ArrayLike) -> float:
    values = np.asarray(energies)
    return float(np.spacing(np.abs(values).max())) if values.dtype == np.float32 else 0.0
