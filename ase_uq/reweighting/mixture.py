"""Weights from MBAR know their free energies from the same frames: what leaving out a block of frames does to them.

A frame of weight 1 + e adds e times its own terms to every sum, and moves the free energies f_k, and with them the
weights of all frames. To first order in e both together are one sum over the block, which takes the place of the plain
one: whatever is made of blocks then has the scatter of the free energies in it.

=======================================  =======================================================================
symbol                                   variable
=======================================  =======================================================================
p_k = N_k exp(f_k - u_k)/sum_l (...)     `shares`, (T, n_states): part of state k in the mixture, at each frame
phi_k = f_k + ln N_k                     what p and the weights depend on
excess_k = sum_block (p_k - [in k])      `excess`, (B, n_states): zero over all frames, which is the equation for phi
H_kl = sum p_k (delta_kl - p_l)          `_response`: d(sum p_k)/d(phi_l)
d(phi) = -H^-1 excess                    first-order change when a block counts more
dS/d(phi_k) = -sum b p_k x               `slopes`, minus the sums with weights b p_k
=======================================  =======================================================================

References
----------
Shirts and Chodera, J. Chem. Phys. 129, 124105 (2008), arXiv:0801.1426: MBAR, Eqs. 8 to 12.
Jaeckel, Bell Labs memorandum MM 72-1215-11 (1972): the infinitesimal jackknife.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting.frame_blocks import FrameSums, Sums
from ase_uq.reweighting.multistate import MBARWeights, order_of_states

_PROPORTION = 0.2  # of the frames of a state: how closely shares must add up to them, of thinned frames too
_FEW = 5.0


@dataclass(frozen=True, slots=True)
class Mixture:
    """States behind the frames of an average.

    Attributes
    ----------
    order
        (T,), order of the frames as given in which every stretch holds all states.
    shares, in_state
        (T, n_states), in that order; see `with_free_energies`.
    """

    order: NDArray[np.int64]
    shares: Array
    in_state: Array


def mixture_of(
    log_weights: ArrayLike | None, state_shares: ArrayLike | None, runs: ArrayLike | None, n_frames: int
) -> Mixture | None:
    """States that weights from MBAR know of, or that were given beside them; `None` for other weights.

    Raises
    ------
    InputError
        For shares that do not belong to these frames, weights that have lost theirs, or runs beside them.
    """
    given = state_shares
    states: NDArray[np.int64] | None = None
    if given is None and isinstance(log_weights, MBARWeights):
        if log_weights.shares is None:
            raise InputError(
                "`log_weights` of MBAR must know the states of their frames, which these have lost, as by take or "
                "sort; put them in order by `log_weights[order]`."
            )
        given, states = log_weights.shares, log_weights.states
    if given is None:
        return None
    if runs is not None or log_weights is None:
        what = "`runs` cannot be told apart" if runs is not None else "`log_weights` are needed"
        raise InputError(f"`state_shares` belong to weights from MBAR: {what} beside them; leave out the other one.")
    shares = np.asarray(given, dtype=np.float64)
    _check_shares(shares, n_frames, states)
    if states is None:
        return Mixture(np.arange(n_frames), shares, np.broadcast_to(shares.mean(axis=0), shares.shape))
    order = order_of_states(states)
    return Mixture(order, shares[order], np.eye(shares.shape[1])[states[order]])


def _check_shares(shares: Array, n_frames: int, states: NDArray[np.int64] | None) -> None:
    if shares.ndim != 2 or len(shares) != n_frames:
        raise InputError(
            f"`state_shares` must be one row a frame, ({n_frames}, n_states), got {shares.shape}; match frames."
        )
    if not (np.isfinite(shares).all() and np.allclose(shares.sum(axis=1), 1.0, atol=1e-6)):
        raise InputError(
            f"`state_shares` must add up to 1 in every frame, got sums from {shares.sum(axis=1).min():.3g} to "
            f"{shares.sum(axis=1).max():.3g}; pass N_k exp(f_k - u_k)/sum, in pymbar `W_nk * N_k`."
        )
    counts = shares.sum(axis=0)
    frames = np.round(counts) if states is None else np.bincount(states, minlength=shares.shape[1])
    if (np.abs(counts - frames) > _PROPORTION * frames + _FEW).any():
        state = int(np.abs(counts - frames).argmax())
        raise InputError(
            f"`log_weights` of MBAR must be those of all its frames, got {frames[state]:g} of state {state} whose "
            f"weights stand for {counts[state]:.5g}; hand in the frames that MBAR was given, all of them."
        )


def with_free_energies(sums: FrameSums, shares: Array, in_state: Array, slopes: Sums) -> FrameSums:
    """Blocks whose sums contain what they do to the weights of all other frames.

    Parameters
    ----------
    shares
        (T, n_states), part of each state in the mixture at every frame; rows add up to 1.
    in_state
        (T, n_states), 1 for the state a frame comes from, or the share of all frames that come from each.
    slopes
        Sums over all frames with weights b p_k, (n_states, ...).
    """
    starts = np.concatenate([[0], np.cumsum(sums.blocks.n)[:-1]]).astype(np.int64)
    # Over all frames it is zero, by the equation for phi; over some of them, as after thinning, nearly so.
    excess = shares - in_state
    excess = np.add.reduceat(excess - excess.mean(axis=0), starts, axis=0)
    change = np.linalg.solve(_response(shares), excess.T).T

    def joined(own: Array, slope: Array) -> Array:
        return own + np.tensordot(change, slope, axes=1)

    blocks = Sums(sums.blocks.n, *(joined(own, slope) for own, slope in zip(sums.blocks[1:], slopes[1:], strict=True)))
    return replace(sums, blocks=blocks)


def _response(shares: Array) -> Array:
    """H, made regular in the direction that moves all free energies alike, and no weight."""
    k = shares.shape[1]
    return np.asarray(np.diag(shares.sum(axis=0)) - shares.T @ shares + len(shares) / k**2)
