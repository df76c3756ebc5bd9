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

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting.columns import Columns, check_method, columns_for, within_groups
from ase_uq.reweighting.error_bars import average
from ase_uq.reweighting.frame_blocks import FrameBlocks, FrameSums
from ase_uq.reweighting.frames import Frames
from ase_uq.reweighting.gate import explosion_gate
from ase_uq.reweighting.mixture import Mixture, mixture_of, with_free_energies
from ase_uq.reweighting.result import ReweightResult
from ase_uq.reweighting.spread import SpreadLaw


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
        is not positive, a method that does not exist, or members from the log of a run whose temperature changes.

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
    _refuse_a_ramp(energy_members)
    if log_weights is None:
        _refuse_a_bias(energy_members)
    frames = Frames.checked(observable, energy_members, energy_reference, temperature_K, log_weights, runs)
    mixture = mixture_of(log_weights, state_shares, runs, len(frames.observable))
    if mixture is not None:
        frames = frames.in_order(mixture.order)
    if frames.at_several_temperatures and method == "gap":
        raise InputError("`temperature_K` must be one number for method 'gap', got several; use 'cea' or 'direct'.")
    columns = columns_for(frames.observable, method, observable_members, frames.members.shape[1])
    if frames.at_several_temperatures:
        columns = within_groups(columns)
    sums = _sums(frames, columns, mixture, weighted=method == "direct")
    result = average(
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
    found = str(getattr(energy_members, "exploded", ""))
    if not found:
        return result
    gate = explosion_gate(found)
    return replace(result, gates=(gate, *result.gates), warnings=(gate.sentence, *result.warnings))


def _sums(frames: Frames, columns: Columns, mixture: Mixture | None, *, weighted: bool) -> FrameSums:
    blocks = FrameBlocks(
        columns.n,
        frames.members.shape[1],
        n_frames=len(frames.observable),
        n_runs=len(frames.run_ends),
        weighted=weighted,
        centred=columns.centred,
    )
    shift = frames.shift_by_temperature(weighted=weighted)
    values = frames.with_residuals() if frames.at_several_temperatures else frames.observable

    def portion(part: slice) -> tuple[Array, Array, Array | None]:
        logs = None if frames.log_weights is None else frames.log_weights[part]
        return columns.build(values[part]), frames.reduced(part) - shift[part], logs

    for part, ends in frames.chunks():
        blocks.add(*portion(part), frames.reference[part])
        if ends:
            blocks.end_run()
    sums = blocks.result()
    if mixture is None:
        return sums
    slopes = None
    for part, _ in frames.chunks():
        a, h, logs = portion(part)
        slopes = blocks.add_shares(slopes, a, h, np.asarray(logs), mixture.shares[part])
    assert slopes is not None
    return with_free_energies(sums, mixture.shares, mixture.in_state, slopes)


def _relaxation(energy_members: ArrayLike, given: float | None) -> float:
    frames = float(getattr(energy_members, "relaxation_frames", 0.0)) if given is None else given
    check_relaxation(frames)
    return frames


def _refuse_a_ramp(energy_members: ArrayLike) -> None:
    if getattr(energy_members, "at_several_temperatures", False):
        raise InputError(
            "`energy_members` must be of a run at one temperature, got those of one whose target changed from frame to "
            "frame: it sampled no ensemble; run on at one temperature."
        )


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


def check_relaxation(relaxation_frames: float) -> None:
    """Refuse a relaxation time that is none."""
    if not (np.isfinite(relaxation_frames) and relaxation_frames >= 0):
        raise InputError(
            f"`relaxation_frames` must be a time in frames, at least 0, got {relaxation_frames}; pass the thermostat's "
            "relaxation time over the time between frames, or leave it out."
        )
