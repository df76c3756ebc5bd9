"""Runs at several temperatures or under several biases, joined for one of them: weights from MBAR.

The weights enter `reweight` as `log_weights`. They remember how free energies and weights hang together, so that error
bars contain what the free energies are not known to. Needs pymbar, the extra `mbar`.

=======================  ============================================================================
symbol                   variable
=======================  ============================================================================
u_k(x) = beta_k U_k(x)   `reduced_energies[k]`
N_k                      `n_frames[k]`
f_k                      reduced free energies, solved by pymbar
W(x)                     exp(-u(x)) / sum_k N_k exp(f_k - u_k(x))
p_k(x)                   N_k exp(f_k - u_k(x)) / sum_l N_l exp(f_l - u_l(x)), `MBARWeights.shares`
=======================  ============================================================================

References
----------
Shirts and Chodera, J. Chem. Phys. 129, 124105 (2008), arXiv:0801.1426: MBAR, Eqs. 9 and 11.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from ase_uq.arrays import Array
from ase_uq.errors import InputError


class MBARWeights(np.ndarray[tuple[int], np.dtype[np.float64]]):
    """Logarithms of weights (T,), an array that remembers the states behind it.

    Index it with an order of all frames, and add or subtract what depends on the frame, and it goes on remembering;
    whatever else is made of it is an ordinary array, or, moved by other means than an index, no longer good for
    `reweight`.

    Attributes
    ----------
    shares
        (T, n_states), part of each state in the mixture of all states at every frame; `None` where that was lost.
    states
        (T,), int, the state a frame comes from.
    """

    shares: Array | None
    states: NDArray[np.int64] | None

    @classmethod
    def of(cls, logs: Array, shares: Array, states: NDArray[np.int64]) -> MBARWeights:
        """Weights (T,) with the shares (T, n_states) and the states (T,) of their frames."""
        made = np.asarray(logs, dtype=np.float64).view(cls)
        made.shares, made.states = shares, states
        return made

    def __array_finalize__(self, obj: Any) -> None:
        self.shares = self.states = None

    def __getitem__(self, index: Any) -> Any:
        picked = super().__getitem__(index)
        if isinstance(picked, MBARWeights) and self.shares is not None and self.states is not None:
            picked.shares, picked.states = self.shares[index], self.states[index]
        return picked

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        plain = np.asarray(array)
        moved = context is not None and context[0] in (np.add, np.subtract) and context[1][0] is self
        if moved and plain.shape == self.shape and self.shares is not None and self.states is not None:
            return MBARWeights.of(plain, self.shares, self.states)
        return plain[()] if return_scalar else plain

    def __reduce__(self) -> Any:
        return MBARWeights.of, (np.array(self), self.shares, self.states)


def mbar_log_weights(reduced_energies: ArrayLike, n_frames: ArrayLike, target: ArrayLike) -> MBARWeights:
    """Logarithms of the weights that turn frames of several states into frames of one.

    Parameters
    ----------
    reduced_energies
        (n_states, T), 1: beta_k U_k of every frame in every state k, bias included; frames sorted by the state they
        come from.
    n_frames
        (n_states,), frames from each state, at least 1; their sum is T. Frames need not be independent, but those of a
        state must be in the order of the run.
    target
        (T,), 1: beta U of the state wanted, which need not be one of those.

    Returns
    -------
    (T,), for `reweight(..., log_weights=..., temperature_K=...)` at the temperature of `target`, where the members'
    energies and the energy of reference are those without the bias. Frames may stay sorted by state or be put in the
    order of `interleaved`, the weights then by `log_weights[order]`; as a plain array, by `numpy.asarray` or
    `numpy.take`, weights forget their states, and `reweight` needs `state_shares` beside them.

    Raises
    ------
    InputError
        If pymbar is not there, a state has no frames, or shapes do not match.
    """
    u, n, wanted = (np.asarray(x, dtype=np.float64) for x in (reduced_energies, n_frames, target))
    if u.ndim != 2 or n.shape != u.shape[:1] or n.sum() != u.shape[1] or wanted.shape != u.shape[1:]:
        raise InputError(
            "`reduced_energies` must be (n_states, T), `n_frames` (n_states,) with sum T and `target` (T,), got "
            f"{u.shape}, {n.shape} with sum {n.sum():g} and {wanted.shape}; sort frames by state."
        )
    if not ((n >= 1) & (n == np.round(n))).all():
        state = int(np.argmin((n >= 1) & (n == np.round(n))))
        raise InputError(
            f"`n_frames` must be a whole number of frames, at least 1, for every state, got {n[state]:g} for state "
            f"{state}; leave out its row of `reduced_energies`: a state without frames adds nothing, and `target` need "
            "not be one of the states."
        )
    for name, array in (("reduced_energies", u), ("target", wanted)):
        if not np.isfinite(array).all():
            raise InputError(f"`{name}` must be finite, got {array[~np.isfinite(array)][0]}; drop that frame.")
    terms = (np.log(n) + _free_energies(u, n))[:, None] - u
    mixture = logsumexp(terms, axis=0)
    logs = -wanted - mixture
    states = np.repeat(np.arange(len(n)), n.astype(np.int64))
    return MBARWeights.of(logs - logs.max(), np.exp(terms - mixture).T, states)


def interleaved(n_frames: ArrayLike) -> NDArray[np.int64]:
    """Order of frames (T,) in which every stretch holds frames of all states in the same proportions.

    Error bars come from leaving out stretches of frames: of frames sorted by state that would leave out a state. Index
    everything with it that is given to `reweight`.

    Parameters
    ----------
    n_frames
        (n_states,), frames from each state, sorted by state.

    Examples
    --------
    >>> interleaved([2, 4]).tolist()
    [2, 0, 3, 4, 1, 5]
    """
    counts = np.asarray(n_frames, dtype=np.int64)
    return order_of_states(np.repeat(np.arange(len(counts)), counts))


def order_of_states(states: ArrayLike) -> NDArray[np.int64]:
    """`interleaved` for frames (T,) in any order, of which the state is known; frames of a state keep theirs."""
    labels = np.asarray(states)
    place = np.empty(len(labels))
    for state in np.unique(labels):
        there = np.flatnonzero(labels == state)
        place[there] = (np.arange(len(there)) + 0.5) / len(there)
    return np.argsort(place, kind="stable")


def _free_energies(u: Array, n: Array) -> Array:
    try:
        # pymbar advises on its optional accelerator at import.
        logging.getLogger("pymbar").setLevel(logging.ERROR)
        from pymbar import MBAR
    except ImportError as error:
        raise InputError('`mbar_log_weights` needs pymbar, which is not there; pip install "ase-uq[mbar]".') from error
    # Its own solver: those it takes from SciPy get options that SciPy does not know, with a warning for each.
    solver = ({"method": "adaptive", "tol": 1e-10, "options": {"maximum_iterations": 10_000}},)
    solved: Any = MBAR(u, n.astype(np.int64), solver_protocol=solver)
    return np.asarray(solved.f_k, dtype=np.float64)
