"""Runs at several temperatures or under several biases, joined for one of them: weights from MBAR.

The weights enter `reweight` as `log_weights`. Needs pymbar, the extra `mbar`.

=======================  ============================================================================
symbol                   variable
=======================  ============================================================================
u_k(x) = beta_k U_k(x)   `reduced_energies[k]`
N_k                      `n_frames[k]`
f_k                      reduced free energies, solved by pymbar
W(x)                     exp(-u(x)) / sum_k N_k exp(f_k - u_k(x))
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

from ase_uq.errors import InputError

Array = NDArray[np.float64]


def mbar_log_weights(reduced_energies: ArrayLike, n_frames: ArrayLike, target: ArrayLike) -> Array:
    """Logarithms of the weights that turn frames of several states into frames of one.

    Parameters
    ----------
    reduced_energies
        (K, T), 1: beta_k U_k of every frame in every state k, bias included; frames sorted by the state they come from.
    n_frames
        (K,), frames from each state; their sum is T. Frames should be thinned to about one per correlation time.
    target
        (T,), 1: beta U of the state wanted, which need not be one of the K.

    Returns
    -------
    (T,), for `reweight(..., log_weights=..., temperature_K=...)` at the temperature of `target`, where the members'
    energies and the energy of reference are those without the bias; put all frames in the order of `interleaved` first.

    Raises
    ------
    InputError
        If pymbar is not there, or shapes do not match.
    """
    u, n, wanted = (np.asarray(x, dtype=np.float64) for x in (reduced_energies, n_frames, target))
    if u.ndim != 2 or n.shape != u.shape[:1] or n.sum() != u.shape[1] or wanted.shape != u.shape[1:]:
        raise InputError(
            f"`reduced_energies` must be (K, T), `n_frames` (K,) with sum T and `target` (T,), got {u.shape}, "
            f"{n.shape} with sum {n.sum():g} and {wanted.shape}; sort frames by state."
        )
    for name, array in (("reduced_energies", u), ("target", wanted)):
        if not np.isfinite(array).all():
            raise InputError(f"`{name}` must be finite, got {array[~np.isfinite(array)][0]}; drop that frame.")
    f = _free_energies(u, n)
    mixture = logsumexp(np.log(n, where=n > 0, out=np.full_like(n, -np.inf))[:, None] + f[:, None] - u, axis=0)
    logs = -wanted - mixture
    return np.asarray(logs - logs.max())


def interleaved(n_frames: ArrayLike) -> NDArray[np.int64]:
    """Order of frames (T,) in which every stretch holds frames of all states in the same proportions.

    Error bars come from leaving out stretches of frames: of frames sorted by state that would leave out a state. Index
    everything with it that is given to `reweight`.

    Parameters
    ----------
    n_frames
        (K,), frames from each state, sorted by state.

    Examples
    --------
    >>> interleaved([2, 4]).tolist()
    [2, 0, 3, 4, 1, 5]
    """
    return np.argsort(np.concatenate([(np.arange(n) + 0.5) / n for n in np.asarray(n_frames)]), kind="stable")


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
