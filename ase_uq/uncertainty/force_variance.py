"""How the variance of forces is found: from every member, from a few combinations of them, or not at all.

What costs is a backward pass for each derivative. Energies of all members, and with them the variance of the energy,
are there after the forward pass; the force of any combination sum_i c_i V_i takes one backward pass.

=======================  ================================================================
symbol                   variable
=======================  ================================================================
f_i                      forces of member i
d_k                      `directions[k]`, (M,), combinations with sum 0 over members
g_k                      `derivatives[k]` = sum_i d_ki f_i
P = 1 - 11^T/M           subtracts the mean over members
G = P F F^T P            `gram`, (M, M), of the member forces F (M, 3N)
=======================  ================================================================

The variance with divisor M-1 is sum_k g_k^2 / (M-1) for any orthonormal set of M-1 directions; a part of the
eigenvectors of G with the largest eigenvalues carries almost all of it, and one random direction all of it on average.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from inspect import signature
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.uncertainty.running_std import RunningStd

logger = logging.getLogger(__name__)


@runtime_checkable
class ForceVariance(Protocol):
    """A way to estimate the variance of forces and stress."""

    every: int
    """Evaluations from one estimate to the next; between them there is none."""

    def directions(self, n_members: int) -> Array | None:
        """Return what to differentiate, combinations (n_combinations, M), or `None` for every member by itself."""
        ...

    def variance(self, derivatives: Array) -> Array:
        """Return the variance (...) from the derivatives (n_combinations, ...) along the directions returned last."""
        ...

    def learn(self, forces_members: Array) -> None:
        """See the forces of every member, (M, N, 3), whenever they were computed."""
        ...


@runtime_checkable
class Resumable(Protocol):
    """An estimator whose next estimates depend on earlier ones; with its state a run goes on as if uninterrupted."""

    def state(self) -> dict[str, Any]:
        """Return what the next estimates depend on, as JSON can hold it once its arrays are lists."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        ...


class Exact:
    """Forces of every member: M backward passes, and `forces_members`.

    Parameters
    ----------
    every
        Evaluations from one estimate to the next.
    """

    def __init__(self, *, every: int = 1) -> None:
        self.every = _checked(every)

    def __repr__(self) -> str:
        return f"Exact(every={self.every})"

    def directions(self, n_members: int) -> None:  # noqa: ARG002
        """Return `None`: the forces of every member are wanted."""
        return

    def variance(self, derivatives: Array) -> Array:
        """Return the variance of members with divisor M-1."""
        return np.asarray(derivatives.var(axis=0, ddof=1))

    def learn(self, forces_members: Array) -> None:
        """Do nothing: there is nothing to learn from the forces of the members."""


class Off:
    """No variance of forces; that of the energy is there all the same."""

    every = 1

    def __repr__(self) -> str:
        return "Off()"

    def directions(self, n_members: int) -> Array:
        """Return an array of no combinations, (0, M)."""
        return np.zeros((0, n_members))

    def variance(self, derivatives: Array) -> Array:  # noqa: ARG002
        """Return what no caller should ask for."""
        raise InputError("`forces_var` is switched off; choose exact, low_rank or stochastic.")

    def learn(self, forces_members: Array) -> None:
        """Do nothing: there is nothing to learn from the forces of the members."""


class Stochastic:
    """One random combination an estimate: one more backward pass, unbiased, to be averaged over steps.

    A single estimate of the std of an atom scatters by about its own size, and lies 10 to 20 % too low on average, for
    the variance is what is unbiased. `running` has the std of atoms over the last few estimates without that bias; the
    log takes it from there.

    Parameters
    ----------
    every
        Evaluations from one estimate to the next.
    seed
        Of the combinations.
    """

    def __init__(self, *, every: int = 1, seed: int = 0) -> None:
        self.every = _checked(every)
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self.running = RunningStd()

    def __repr__(self) -> str:
        return f"Stochastic(every={self.every}, seed={self.seed})"

    def directions(self, n_members: int) -> Array:
        """Return one direction, (1, M), with covariance P/(M-1)."""
        z = self._rng.standard_normal((1, n_members))
        return np.asarray((z - z.mean()) / np.sqrt(n_members - 1))

    def variance(self, derivatives: Array) -> Array:
        """Return the square of the one combination, whose average over draws is the variance."""
        return np.asarray((derivatives**2).sum(axis=0))

    def learn(self, forces_members: Array) -> None:
        """Do nothing: there is nothing to learn from the forces of the members."""

    def state(self) -> dict[str, Any]:
        """Return the state of the generator and of the running std."""
        return {"rng": self._rng.bit_generator.state, "running": self.running.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the combinations that follow a state."""
        self._rng.bit_generator.state = state["rng"]
        self.running.restore(state["running"])


class LowRank:
    """The leading principal directions of the members' forces: as few backward passes as the tolerance allows.

    The first evaluation, and later every `check_every`-th, is exact: it sets the directions and their number, and
    measures the error of those in use, which `error` keeps and the log of this module warns about.

    Parameters
    ----------
    tolerance
        Relative error of the force std that is allowed, root mean square over components.
    every
        Evaluations from one estimate to the next.
    check_every
        Estimates from one exact one to the next.
    """

    def __init__(self, *, tolerance: float = 0.05, every: int = 1, check_every: int = 100) -> None:
        if not 0.0 < tolerance < 1.0:
            raise InputError(f"`tolerance` must lie between 0 and 1, got {tolerance}; 0.05 is usual.")
        self.tolerance, self.every, self.check_every = tolerance, _checked(every), _checked(check_every, "check_every")
        self.error: float | None = None
        self._count = 0
        self._kept: Array | None = None
        self._share = 1.0

    def __repr__(self) -> str:
        return f"LowRank(tolerance={self.tolerance}, every={self.every}, check_every={self.check_every})"

    @property
    def rank(self) -> int | None:
        """Number of directions in use, or `None` before the first evaluation."""
        return None if self._kept is None else len(self._kept)

    def directions(self, n_members: int) -> Array | None:
        """Return the directions in use, (r, M), or `None` when it is time for an exact evaluation."""
        due = self._kept is None or self._kept.shape[1] != n_members or self._count % self.check_every == 0
        self._count += 1
        return None if due else self._kept

    def variance(self, derivatives: Array) -> Array:
        """Return the variance; the part the directions miss is made up for by a common factor."""
        assert self._kept is not None
        n_members = self._kept.shape[1]
        return np.asarray((derivatives**2).sum(axis=0) / (n_members - 1) / self._share)

    def state(self) -> dict[str, Any]:
        """Return the directions in use and how many estimates there were."""
        return {"count": self._count, "kept": self._kept, "share": self._share}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the directions of a state."""
        kept = state["kept"]
        self._count, self._share = state["count"], state["share"]
        self._kept = None if kept is None else np.array(kept, dtype=np.float64)

    def learn(self, forces_members: Array) -> None:
        """Measure the error of the directions in use, then choose new ones."""
        deviations = (forces_members - forces_members.mean(axis=0)).reshape(len(forces_members), -1)
        exact = np.sqrt((deviations**2).sum(axis=0) / (len(deviations) - 1))
        if not exact.any():
            return
        if self._kept is not None and self._kept.shape[1] == len(deviations):
            self.error = _std_error(self.variance(self._kept @ deviations), exact)
            if self.error > 2.0 * self.tolerance:
                logger.warning(
                    "force std along %d directions was %.0f %% off the exact one (tolerance %.0f %%); "
                    "lower check_every, or use exact",
                    len(self._kept),
                    100 * self.error,
                    100 * self.tolerance,
                )
        values, vectors = np.linalg.eigh(deviations @ deviations.T)
        for rank in range(1, len(deviations)):
            # In memory as `restore` has it: products then agree to the last digit.
            self._kept = np.ascontiguousarray(vectors[:, ::-1][:, :rank].T)
            self._share = float(values[::-1][:rank].sum() / values.sum())
            if _std_error(self.variance(self._kept @ deviations), exact) <= self.tolerance:
                break


NAMES = {"exact": Exact, "low_rank": LowRank, "stochastic": Stochastic, "off": Off}


def force_variance(choice: str | ForceVariance | None, *, every: int = 1, model: Any = None) -> ForceVariance:
    """Return the estimator of a name: "exact", "low_rank", "stochastic" or "off".

    `None` stands for what the model prefers, its `usual_forces_var`, and for "exact" where it says nothing.

    Raises
    ------
    InputError
        For another name, or fewer than one evaluation from one estimate to the next.
    """
    name = getattr(model, "usual_forces_var", "exact") if choice is None else choice
    if isinstance(name, ForceVariance):
        return name
    if name not in NAMES:
        raise InputError(f"`forces_var` must be one of {', '.join(NAMES)}, got {name!r}; choose one.")
    return Off() if name == "off" else NAMES[name](every=_checked(every))


def settings_of(estimator: ForceVariance) -> dict[str, Any]:
    """Name and options of an estimator: {"name": "stochastic", "every": 5, "seed": 0}.

    One of another package goes by the name of its class.
    """
    kind = type(estimator)
    name = next((name for name, known in NAMES.items() if known is kind), kind.__name__)
    options = (option for option in signature(kind).parameters if hasattr(estimator, option))
    return {"name": name, **{option: getattr(estimator, option) for option in options}}


def _std_error(variance: Array, exact: Array) -> float:
    return float(np.sqrt(((np.sqrt(variance) - exact) ** 2).mean() / (exact**2).mean()))


def _checked(value: int, name: str = "every") -> int:
    if value < 1:
        raise InputError(f"`{name}` must be at least 1, got {value}; 1 estimates at every evaluation.")
    return value
