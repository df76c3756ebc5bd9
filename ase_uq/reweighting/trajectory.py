"""Averages of a trajectory under every member of a model, with sampling and model error apart.

The run was driven by V, the energy the integrator saw; member i would have sampled exp(-beta V_i).

========================================  =========================================================
symbol                                    variable
========================================  =========================================================
beta = 1/(kB T)                           `beta`, 1/eV
V_i, V                                    `energy_members[:, i]`, `energy_reference`
h_i = beta (V_i - V)                      `h`
a, a_j                                    `observable`
b = exp(l)                                `log_weights`, l
========================================  =========================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 28.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase.units import kB
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting.columns import check_method, columns_for, within_groups
from ase_uq.reweighting.error_bars import MIN_FRAMES, average
from ase_uq.reweighting.frame_blocks import FrameBlocks
from ase_uq.reweighting.mixture import mixture_of, with_free_energies
from ase_uq.reweighting.result import ReweightResult
from ase_uq.reweighting.spread import SpreadLaw

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class _Frames:
    observable: Array  # (T, ...)
    members: Array  # (T, M)
    reference: Array  # (T,)
    beta: float | Array  # 1/eV, or (T,)
    log_weights: Array | None  # (T,)
    run_ends: NDArray[np.int64]  # frames at which a run ends, T among them
    energy_step: float  # kT


def reweight(
    observable: ArrayLike,
    *,
    energy_members: ArrayLike,
    energy_reference: ArrayLike,
    temperature_K: ArrayLike,
    method: str = "cea",
    observable_members: str | None = None,
    function: Callable[[Any], Any] | None = None,
    log_weights: ArrayLike | None = None,
    state_shares: ArrayLike | None = None,
    runs: ArrayLike | None = None,
    relaxation_frames: float | None = None,
    alpha: float | None = None,
    mean_share: float | None = None,
    dof: float | None = None,
) -> ReweightResult:
    """Average `observable` under every member of a model.

    Parameters
    ----------
    observable
        (T,), one value a frame, or (T, ...) for vectors and matrices; with members of its own (T, M') or (T, M', ...).
    energy_members
        (T, M) as in the log, or (M, T), eV: energies of the members, calibrated.
    energy_reference
        (T,), eV: the energy the integrator saw. Only its differences from the members matter, and of these only the
        fluctuation along the run.
    temperature_K
        Target temperature of the thermostat; (T,) for frames at several temperatures, as of one walker of replica
        exchange: averages are then over the frames as they are, and members reweigh within each temperature.
    method
        "cea" (cumulant expansion), "direct" (exponential weights) or "gap" (mean energy gap in the bins of a histogram:
        of the scalar itself, or, for (T, n_bins), of a histogram whose columns are 1 for the frames of a bin).
    observable_members
        "paired" when member i of the observable and of the potential are the same model (its own energy, pressure,
        dipole), "independent" when the observable comes from another model.
    function
        Function of the averages, for instance a ratio, given an array of the observable's shape (a float for a scalar),
        that returns a number or an array. With "cea" it is expanded to first order, so that moments are centred.
    log_weights
        (T,): logarithms of the weights of a biased run, U_bias/kT. Without them a biased run gives biased averages.
        Those of `mbar_log_weights` bring along what the error of their free energies needs.
    state_shares
        (T, n_states), for weights from MBAR that were made elsewhere: N_k exp(f_k - u_k)/sum_l N_l exp(f_l - u_l) of
        every frame, `mbar.W_nk * mbar.N_k` of pymbar. Without them the free energies count as exact, and bars come out
        several times too small. Frames must be in the order of `ase_uq.reweighting.multistate.interleaved`.
    runs
        (T,): number of the run each frame belongs to, frames of a run together. With 8 runs or more the sampling error
        is what runs differ by.
    relaxation_frames
        A relaxation time known from elsewhere, such as that of the thermostat (1/friction for Langevin), in frames. The
        sampling error then allows for motions that slow, without waiting for evidence of them. By default what
        `energy_members` remembers, as those of `read_log` do, else 0.
    alpha, mean_share, dof
        Calibration factor inside the members, the share of their variance that their mean carries (1/M, or 0 where it
        is pinned to them), and the degrees of freedom of their spread (M - 1, or infinite where it is exact): for
        intervals. By default what `energy_members` remembers, as those of `read_log` do, else 1, 1/M and M - 1.

    Returns
    -------
    ReweightResult
        Numbers for a scalar, arrays of the shape of the observable (or of what `function` returns) else.

    Raises
    ------
    InputError
        For shapes that do not match, fewer than 20 frames or 2 members, a value that is not finite, a temperature that
        is not positive, or a method that does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> x = rng.normal(size=5000)
    >>> members = 0.01 * x[:, None] * np.array([-1.0, -0.5, 0.5, 1.0])
    >>> result = reweight(x, energy_members=members, energy_reference=np.zeros(5000), temperature_K=300.0)
    >>> result.member_means.round(1).tolist(), result.warnings
    ([0.4, 0.2, -0.2, -0.4], ())

    References
    ----------
    arXiv:2011.08828, Eqs. 20 to 28.
    """
    check_method(method)
    slow = _relaxation(energy_members, relaxation_frames)
    if log_weights is None:
        _refuse_a_bias(energy_members)
    frames = _frames(observable, energy_members, energy_reference, temperature_K, log_weights, runs)
    mixture = mixture_of(log_weights, state_shares, runs, len(frames.observable))
    if mixture is not None:
        frames = _in_order(frames, mixture.order)
    n_members = frames.members.shape[1]
    several = np.ndim(frames.beta) > 0 and len(np.unique(frames.beta)) > 1
    if several and method == "gap":
        raise InputError("`temperature_K` must be one number for method 'gap', got several; use 'cea' or 'direct'.")
    columns = columns_for(frames.observable, method, observable_members, n_members)
    if several:
        columns = within_groups(columns)
    blocks = FrameBlocks(
        columns.n,
        n_members,
        n_frames=len(frames.observable),
        n_runs=len(frames.run_ends),
        weighted=method == "direct",
        centred=columns.centred,
    )
    shift = _shift_by_temperature(frames, weighted=method == "direct")
    values = _with_residuals(frames) if several else frames.observable
    chunks = list(_chunks(frames.run_ends))

    def portion(part: slice) -> tuple[Array, Array, Array | None]:
        logs = None if frames.log_weights is None else frames.log_weights[part]
        return columns.build(values[part]), _reduced(frames, part) - shift[part], logs

    for part, ends in chunks:
        blocks.add(*portion(part), frames.reference[part])
        if ends:
            blocks.end_run()
    sums = blocks.result()
    if mixture is not None:
        slopes = None
        for part, _ in chunks:
            a, h, logs = portion(part)
            slopes = blocks.add_shares(slopes, a, h, np.asarray(logs), mixture.shares[part])
        assert slopes is not None
        sums = with_free_energies(sums, mixture.shares, mixture.in_state, slopes)
    return average(
        sums,
        replace(
            columns.question,
            function=function,
            law=_law(energy_members, alpha, mean_share, dof),
            energy_step=frames.energy_step,
            relaxation_frames=slow,
            biased=frames.log_weights is not None,
            stratified=mixture is not None,
        ),
    )


def _relaxation(energy_members: ArrayLike, given: float | None) -> float:
    frames = float(getattr(energy_members, "relaxation_frames", 0.0)) if given is None else given
    check_relaxation(frames)
    return frames


def _refuse_a_bias(energy_members: ArrayLike) -> None:
    if getattr(energy_members, "biased", False):
        raise InputError(
            "`log_weights` must be given for the frames of a biased run, got none; pass those of the log "
            "(`run.log_weights`), or np.asarray(energy_members) to average the biased run as it is."
        )


def _law(energy_members: ArrayLike, alpha: float | None, mean_share: float | None, dof: float | None) -> SpreadLaw:
    remembered = getattr(energy_members, "law", None) or SpreadLaw()
    given = {"alpha": alpha, "mean_share": mean_share, "dof": dof}
    return replace(remembered, **{name: value for name, value in given.items() if value is not None})


def _chunks(run_ends: NDArray[np.int64]) -> Iterator[tuple[slice, bool]]:
    """Stretches of all frames, and whether a run ends with them."""
    start = 0
    for end in run_ends.tolist():
        for first in range(start, end, _CHUNK):
            yield slice(first, min(first + _CHUNK, end)), first + _CHUNK >= end
        start = end


def _in_order(frames: _Frames, order: NDArray[np.int64]) -> _Frames:
    logs, beta = frames.log_weights, frames.beta
    return replace(
        frames,
        observable=frames.observable[order],
        members=frames.members[order],
        reference=frames.reference[order],
        log_weights=None if logs is None else logs[order],
        beta=beta if np.ndim(beta) == 0 else np.asarray(beta)[order],
    )


def inverse_temperature(temperature_K: float) -> float:
    """1/(kB T) in 1/eV."""
    if not (np.isfinite(temperature_K) and temperature_K > 0):
        raise InputError(f"`temperature_K` must be positive, got {temperature_K}; pass the thermostat's target in K.")
    return 1.0 / (kB * temperature_K)


def check_relaxation(relaxation_frames: float) -> None:
    """Refuse a relaxation time that is none."""
    if not (np.isfinite(relaxation_frames) and relaxation_frames >= 0):
        raise InputError(
            f"`relaxation_frames` must be a time in frames, at least 0, got {relaxation_frames}; pass the thermostat's "
            "relaxation time over the time between frames, or leave it out."
        )


def _reduced(frames: _Frames, part: slice | Array) -> Array:
    beta = frames.beta if np.ndim(frames.beta) == 0 else np.asarray(frames.beta)[part, None]
    return np.asarray(beta * (frames.members[part] - frames.reference[part, None]))


def _shift_by_temperature(frames: _Frames, *, weighted: bool) -> Array:
    """What to subtract from h_i so that members reweigh within each temperature, (T, 1 or M)."""
    if np.ndim(frames.beta) == 0:
        return np.zeros((len(frames.reference), 1))
    shift = np.empty_like(frames.members)
    for beta in np.unique(frames.beta):
        there = frames.beta == beta
        h = _reduced(frames, there)
        logs = np.zeros(len(h)) if frames.log_weights is None else frames.log_weights[there]
        b = np.exp(logs - logs.max())
        lowest = h.min(axis=0)
        shift[there] = lowest - np.log(b @ np.exp(lowest - h) / b.sum()) if weighted else b @ h / b.sum()
    return shift


def _with_residuals(frames: _Frames) -> Array:
    """Observable (T, 2, ...): about its mean at each temperature, moved to the mean over all, and as it is."""
    a = frames.observable
    logs = np.zeros(len(a)) if frames.log_weights is None else frames.log_weights
    b = np.exp(logs - logs.max())
    residuals = a + np.tensordot(b, a, axes=1) / b.sum()
    for beta in np.unique(frames.beta):
        there = frames.beta == beta
        residuals[there] -= np.tensordot(b[there], a[there], axes=1) / b[there].sum()
    return np.stack([residuals, a], axis=1)


def _frames(
    observable: ArrayLike,
    energy_members: ArrayLike,
    energy_reference: ArrayLike,
    temperature_K: ArrayLike,
    log_weights: ArrayLike | None,
    runs: ArrayLike | None,
) -> _Frames:
    a = np.asarray(observable, dtype=np.float64)
    members = np.asarray(energy_members, dtype=np.float64)
    reference = np.asarray(energy_reference, dtype=np.float64)
    if a.ndim == 0 or len(a) < MIN_FRAMES or a.size == 0:
        raise InputError(
            f"`observable` must have one value a frame, at least {MIN_FRAMES} of them, got shape {a.shape}; run longer."
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
            raise InputError(f"`{name}` must have one value a frame, ({t},), got {array.shape}; match frames by step.")
    for name, array in ({"observable": a, "energy_members": members} | rows).items():
        if array is not None and name != "runs":  # labels may be words
            _check_finite(name, np.asarray(array, dtype=np.float64))
    beta = np.array([inverse_temperature(float(k)) for k in np.unique(kelvin)])
    step = max(_single_precision_step(energy_members), _single_precision_step(energy_reference))
    return _Frames(
        observable=a,
        members=members,
        reference=reference,
        beta=float(beta[0]) if kelvin.ndim == 0 else 1.0 / (kB * kelvin),
        log_weights=None if logs is None else logs.astype(np.float64),
        run_ends=_run_ends(labels, t),
        energy_step=float(beta.max()) * step,
    )


def _check_finite(name: str, array: Array) -> None:
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
