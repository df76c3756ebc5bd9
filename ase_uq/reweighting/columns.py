"""How an observable becomes the columns whose products with the energies of members are summed.

===================================  ==========================================================================
observable                           columns
===================================  ==========================================================================
scalar, vector, matrix               its entries
with members of its own              its entries for every member, and their mean over members, followed
"gap", scalar a                      1_s(a) for the bins s, a 1_s(a), and a, followed
"gap", histogram                     its bins, and 1 minus their sum for what lies outside
===================================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ase_uq.arrays import Array
from ase_uq.errors import InputError
from ase_uq.reweighting.question import Question

METHODS = ("cea", "direct", "gap")
OWN_MEMBERS = ("paired", "independent")
FRAMES_IN_BIN = 20
_BIN_WIDTH = 0.2  # standard deviations: what a bin blurs is 0.3 % of a shift
_MOST_BINS = 200


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of an observable.

    Attributes
    ----------
    n
        How many.
    build
        From values (t, ...) to columns (t, n).
    question
        What is asked of their sums.
    """

    n: int
    build: Callable[[Array], Array]
    question: Question

    @property
    def centred(self) -> bool:
        """Whether sums may be taken about an origin, which counts must not."""
        return self.question.method != "gap"


def check_method(method: str) -> None:
    """Refuse a method that does not exist."""
    if method not in METHODS:
        raise InputError(
            f"`method` must be one of {', '.join(map(repr, METHODS))}, got {method!r}; choose one of these."
        )


def columns_for(sample: Array, method: str, own_members: str | None, n_members: int) -> Columns:
    """Columns of an observable, of which `sample` holds values of some or all frames, (t, ...).

    Raises
    ------
    InputError
        For own members that do not fit the potential's or the method, or a vector that is no histogram for "gap".
    """
    shape = sample.shape[1:]
    if own_members is not None:
        return _own_columns(shape, method, own_members, n_members)
    if method != "gap":
        size = int(np.prod(shape, dtype=int))
        return Columns(size, lambda values: values.reshape(len(values), size), Question(method=method, shape=shape))
    if shape == ():
        return _binned_columns(sample)
    if len(shape) > 1 or (sample < 0).any() or (sample.sum(axis=1) > 1 + 1e-9).any():
        most = sample.reshape(len(sample), -1).sum(axis=1).max()
        raise InputError(
            "`observable` must be one number a frame or a histogram for method 'gap', entries not below 0 that add up "
            f"to 1 at most, got shape {sample.shape} and a sum of {most:g}; use method 'cea'."
        )
    return Columns(
        shape[0] + 1,
        lambda values: np.concatenate([values, 1.0 - values.sum(axis=1, keepdims=True)], axis=1),
        Question(method=method, shape=shape),
    )


def within_groups(columns: Columns) -> Columns:
    """Columns of values (t, 2, ...): estimates from the first, about the mean of each group, sampling from the second.

    Groups are what frames of several temperatures form: members reweigh inside of them, while the sampling error is
    that of the observable itself.
    """
    q = columns.question
    n_followed = q.n_followed or columns.n

    def build(values: Array) -> Array:
        estimated, followed = columns.build(values[:, 0]), columns.build(values[:, 1])
        return np.concatenate([estimated[:, : columns.n - q.n_followed], followed[:, -n_followed:]], axis=1)

    return Columns(columns.n - q.n_followed + n_followed, build, replace(q, n_followed=n_followed))


def bin_edges(values: Array) -> Array:
    """Inner edges (n_bins - 1,) of bins for a scalar, each with at least 20 frames; a value each where there are few.

    Bins are 0.2 standard deviations wide, and wider in the tails.
    """
    known = np.unique(values)
    if len(known) <= 2:
        return np.asarray(0.5 * (known[1:] + known[:-1]))
    n = int(np.clip(np.ptp(values) / max(_BIN_WIDTH * values.std(), 1e-300), 2, _MOST_BINS))
    edges = np.linspace(known[0], known[-1], n + 1)[1:-1]
    if len(known) <= n:
        edges = 0.5 * (known[1:] + known[:-1])
    return _with_enough_frames(values, edges)


def _with_enough_frames(values: Array, edges: Array) -> Array:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    below, kept = 0, []
    remaining = int(counts.sum())
    for edge, count in zip(edges, counts[:-1], strict=True):
        below += int(count)
        remaining -= int(count)
        if below >= FRAMES_IN_BIN and remaining >= FRAMES_IN_BIN:
            kept.append(edge)
            below = 0
    return np.array(kept)


def _binned_columns(sample: Array) -> Columns:
    edges = bin_edges(sample)
    n = len(edges) + 1

    def build(values: Array) -> Array:
        inside = np.zeros((len(values), 2 * n + 1))
        rows, which = np.arange(len(values)), np.searchsorted(edges, values, side="right")
        inside[rows, which] = 1.0
        inside[rows, n + which] = values
        inside[:, -1] = values
        return inside

    # Where every bin is one value, as of a state, there is nothing beyond the last.
    open_ended = len(np.unique(sample)) > n
    return Columns(2 * n + 1, build, Question(method="gap", binned=True, open_ended=open_ended, n_followed=1))


def _own_columns(shape: tuple[int, ...], method: str, own_members: str, n_members: int) -> Columns:
    if own_members not in OWN_MEMBERS:
        raise InputError(
            f"`observable_members` must be 'paired' or 'independent', got {own_members!r}; paired means that member i "
            "of both is the same model."
        )
    if method == "gap":
        raise InputError("`observable_members` does not go with method 'gap'; use 'cea' or 'direct'.")
    needed = n_members if own_members == "paired" else None
    if not shape or shape[0] < 2 or (needed is not None and shape[0] != needed):
        wanted = f"(T, {needed}, ...)" if needed else "(T, M', ...) with at least 2 members M'"
        raise InputError(
            f"`observable` must have shape {wanted} when its members are {own_members}, got (T, "
            f"{', '.join(map(str, shape))}); put its members on the second axis."
        )
    inner = shape[1:]
    size = int(np.prod(inner, dtype=int))

    def build(values: Array) -> Array:
        grid = values.reshape(len(values), shape[0], size)
        return np.concatenate([grid.reshape(len(values), -1), grid.mean(axis=1)], axis=1)

    question = Question(method=method, shape=inner, n_followed=size, own_members=own_members)
    return Columns((shape[0] + 1) * size, build, question)
