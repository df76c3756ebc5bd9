"""Consecutive blocks of a run of any length: all that reweighting needs of its frames, in constant memory.

Every block keeps sums of products of observables and energy differences. When all blocks are full, neighbours are added
and the length doubles. Sums are taken about the averages of the first frames, so that large energies cost no digits.

=====================================  =====================================================================
symbol                                 variable, row of `Sums`
=====================================  =====================================================================
a_k, h_i = beta (V_i - V)              columns k and members i of a frame
b = exp(l)                             weight of a frame in the run itself, 1 unless the run was biased
sum b, sum b a, sum b h, sum b h^2     `b`, `a`, `h`, `hh`
sum b a h_i, sum b a h_i^2             `ah`, `ahh`
w_i = b exp(-h_i)                      weight of a frame under member i
sum w_i, sum w_i a                     `w`, `wa`
sum V                                  `FrameSums.energy`, to see how slowly the run moves
=====================================  =====================================================================

References
----------
Imbalzano et al., J. Chem. Phys. 154, 074102 (2021), arXiv:2011.08828, Eqs. 20 to 24.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ase_uq.arrays import Array
from ase_uq.reweighting.pareto import LargestValues

MOST_BLOCKS, FEWEST_BLOCKS = 1024, 128
_MOST_BYTES = 64e6  # of the three large rows together
_PIECE = 1 << 16  # numbers handled at once: temporaries stay in the cache


class Sums(NamedTuple):
    """Sums over frames, with any leading axes; see the table of this module."""

    n: Array  # (...,), number of frames
    b: Array  # (...,)
    a: Array  # (..., n_columns)
    h: Array  # (..., M)
    hh: Array  # (..., M)
    ah: Array  # (..., n_columns, M)
    ahh: Array  # (..., n_columns, M)
    w: Array  # (..., M)
    wa: Array  # (..., n_columns, M)

    def map(self, function: Callable[[Array], Array]) -> Sums:
        """Apply a function to every row."""
        return Sums(*map(function, self))

    def total(self) -> Sums:
        """Sum over the first axis."""
        return self.map(lambda row: row.sum(axis=0))

    def left_out(self) -> Sums:
        """Sums over all blocks but one, for every block."""
        # Sums of what may be negative: subtracting one block of many loses no digits that matter.
        return self.map(lambda row: row.sum(axis=0) - row)

    def merged(self, n_blocks: int) -> Sums:
        """Neighbours joined until at most `n_blocks` are left."""
        if n_blocks >= len(self.n):
            return self
        starts = np.linspace(0, len(self.n), n_blocks + 1).round().astype(np.int64)[:-1]
        return self.map(lambda row: np.add.reduceat(row, starts, axis=0))

    def columns(self, which: slice) -> Sums:
        """The same for some of the columns."""
        return self._replace(
            a=self.a[..., which], ah=self.ah[..., which, :], ahh=self.ahh[..., which, :], wa=self.wa[..., which, :]
        )


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over all frames that need no blocks.

    Attributes
    ----------
    hhh, hhhh
        (M,), sum b h^3 and sum b h^4.
    ww
        (M,), sum w^2.
    wwa, wwaa
        (n_columns, M), sum w^2 a and sum w^2 a^2; zero unless direct weights are in use.
    second
        (n_columns, 3, 3), sum b^2 a^p h^q for powers p, q of 0 to 2, h being the mean over members.
    lowest
        (n_columns,), smallest value of each column.
    """

    hhh: Array
    hhhh: Array
    ww: Array
    wwa: Array
    wwaa: Array
    second: Array
    lowest: Array


@dataclass(frozen=True, slots=True)
class FrameSums:
    """What one or several runs have left in their blocks.

    Attributes
    ----------
    blocks
        Rows (B, ...).
    length
        Frames in a full block.
    origin_a, origin_h
        (n_columns,), (M,): values that were subtracted from every frame.
    moments
        Sums without blocks.
    tails
        The largest log weights of each member, or `None`.
    run_starts
        (n_runs,), the first block of every run.
    energy
        (B,), sums over blocks of the energy that drove the run, minus that of the first frame; eV.
    """

    blocks: Sums
    length: int
    origin_a: Array
    origin_h: Array
    moments: Moments
    tails: LargestValues | None
    run_starts: NDArray[np.int64]
    energy: Array

    @property
    def n_frames(self) -> int:
        """Number of frames, T."""
        return int(self.blocks.n.sum())

    def columns(self, which: slice) -> FrameSums:
        """The same for some of the columns."""
        m = self.moments
        picked = replace(m, wwa=m.wwa[which], wwaa=m.wwaa[which], second=m.second[which], lowest=m.lowest[which])
        return replace(self, blocks=self.blocks.columns(which), origin_a=self.origin_a[which], moments=picked)


class FrameBlocks:
    """Takes the frames of a run, some at a time, or of several runs one after the other.

    Parameters
    ----------
    n_columns, n_members
        Numbers of columns and of members.
    n_frames, n_runs
        Length of the runs together where it is known, and their number: blocks then have their final length from the
        start, and none holds frames of two runs.
    weighted
        Keep what the effective number of frames and the tail of direct weights need.
    centred
        Subtract the average of the first frames from the columns, too, not only from the energies.
    """

    def __init__(
        self,
        n_columns: int,
        n_members: int,
        *,
        n_frames: int | None = None,
        n_runs: int = 1,
        weighted: bool = False,
        centred: bool = True,
    ) -> None:
        k, m = n_columns, n_members
        # Every run may leave its last block unfilled.
        self.capacity = _capacity(k * m) + 2 * (n_runs // 2)
        self._length = 1 if n_frames is None else max(1, -(-n_frames // (self.capacity - n_runs + 1)))
        self._current = 0
        self._run_starts = [0]
        shapes = ((), (), (k,), (m,), (m,), (k, m), (k, m), (m,), (k, m))
        self._sums = Sums(*(np.zeros((self.capacity, *shape)) for shape in shapes))
        self._energy, self._zero = np.zeros(self.capacity), np.nan
        self._h3, self._h4, self._ww = np.zeros(m), np.zeros(m), np.zeros(m)
        self._wwa, self._wwaa = np.zeros((k, m)), np.zeros((k, m))
        self._second, self._lowest = np.zeros((1 + 2 * k, 3)), np.full(k, np.inf)
        self._top_b, self._top_w = -np.inf, np.full(m, -np.inf)
        self._tails = LargestValues(m) if weighted else None
        self._centred = centred
        self._origin: tuple[Array, Array] | None = None

    @property
    def n_frames(self) -> int:
        """Number of frames taken so far."""
        return int(self._sums.n.sum())

    def add(self, a: Array, h: Array, log_weights: Array | None = None, energy: Array | None = None) -> None:
        """Take frames: columns (t, n_columns), energy differences in kT (t, M), log weights of a bias (t,), V (t,)."""
        if self._origin is None:
            # By way of the first frame, so that a constant is exactly zero from here on.
            origin_a, origin_h = (x[0] + (x - x[0]).mean(axis=0) for x in (a, h))
            self._origin = origin_a if self._centred else np.zeros_like(origin_a), origin_h
            self._zero = 0.0 if energy is None else float(energy[0])
        step = max(1, _PIECE // (h.shape[1] + a.shape[1]))
        for start in range(0, len(a), step):
            part = slice(start, start + step)
            logs = np.zeros(len(a[part])) if log_weights is None else log_weights[part]
            v = np.zeros(len(logs)) if energy is None else energy[part] - self._zero
            self._add(a[part] - self._origin[0], h[part] - self._origin[1], logs, v)
            np.minimum(self._lowest, a[part].min(axis=0), out=self._lowest)

    def add_shares(self, sums: Sums | None, a: Array, h: Array, log_weights: Array, shares: Array) -> Sums:
        """Add frames, all taken before, to sums (n_states, ...) in which each counts by its `shares` (t, n_states).

        Sums without frames are begun where there are none; they stand relative to the largest weights, as blocks do.
        """
        step = max(1, _PIECE // (shares.shape[1] * a.shape[1] + h.shape[1]))
        for start in range(0, len(a), step):
            part = slice(start, start + step)
            more = self._shared(a[part], h[part], log_weights[part], shares[part])
            sums = more if sums is None else Sums(*(old + new for old, new in zip(sums, more, strict=True)))
        assert sums is not None
        return sums

    def _shared(self, a: Array, h: Array, logs: Array, shares: Array) -> Sums:
        assert self._origin is not None
        a, h = a - self._origin[0], h - self._origin[1]
        hh, w = h * h, np.exp(logs[:, None] - h - self._top_w)
        parts = shares * np.exp(logs - self._top_b)[:, None]
        grid, weighted = ((x[:, :, None] * a[:, None, :]).reshape(len(a), -1) for x in (parts, shares))
        shape = (shares.shape[1], a.shape[1], h.shape[1])
        return Sums(
            shares.sum(axis=0),
            parts.sum(axis=0),
            parts.T @ a,
            parts.T @ h,
            parts.T @ hh,
            (grid.T @ h).reshape(shape),
            (grid.T @ hh).reshape(shape),
            shares.T @ w,
            (weighted.T @ w).reshape(shape),
        )

    def end_run(self) -> None:
        """Begin a new block, so that none holds frames of two runs."""
        if self._sums.n[self._current :].any():
            self._current += 1
        if self._current < self.capacity:
            self._run_starts.append(self._current)

    def result(self) -> FrameSums:
        """What the frames so far have left; a view, which more frames change."""
        assert self._origin is not None
        used = int(np.count_nonzero(self._sums.n))
        k = len(self._lowest)
        rows = [[0, *range(1 + j, 1 + 2 * k, k)] for j in range(k)]
        moments = Moments(
            self._h3.copy(),
            self._h4.copy(),
            self._ww.copy(),
            self._wwa.copy(),
            self._wwaa.copy(),
            self._second[rows],
            self._lowest.copy(),
        )
        starts = np.array([start for start in self._run_starts if start < used])
        return FrameSums(
            self._sums.map(lambda row: row[:used]),
            self._length,
            *self._origin,
            moments,
            self._tails,
            starts,
            self._energy[:used],
        )

    def _add(self, a: Array, h: Array, logs: Array, v: Array) -> None:
        log_w = logs[:, None] - h
        self._raise_tops(logs, log_w)
        b, w = np.exp(logs - self._top_b), np.exp(log_w - self._top_w)
        self._add_moments(a, h, b, w)
        if self._tails is not None:
            self._tails.add(log_w)
        start = 0
        while start < len(a):
            if self._current == self.capacity:
                self._merge_pairs()
            room = self._length - int(self._sums.n[self._current])
            whole = 1
            if room == self._length:
                whole = max(1, min((len(a) - start) // room, self.capacity - self._current))
            length = min(room, len(a) - start)
            part = slice(start, start + whole * length)
            self._energy[self._current : self._current + whole] += v[part].reshape(whole, length).sum(axis=1)
            self._add_blocks(*(x[part].reshape(whole, length, -1) for x in (a, h, b, w)))
            if length == room:
                self._current += whole
            start += whole * length

    def _add_blocks(self, a: Array, h: Array, b: Array, w: Array) -> None:
        s, blocks = self._sums, slice(self._current, self._current + len(a))
        ba, row = np.swapaxes(b * a, 1, 2), np.swapaxes(b, 1, 2)
        hh = h * h
        s.n[blocks] += a.shape[1]
        s.b[blocks] += row.sum(axis=(1, 2))
        s.a[blocks] += ba.sum(axis=2)
        s.h[blocks] += (row @ h)[:, 0]
        s.hh[blocks] += (row @ hh)[:, 0]
        s.ah[blocks] += ba @ h
        s.ahh[blocks] += ba @ hh
        s.w[blocks] += w.sum(axis=1)
        s.wa[blocks] += np.swapaxes(a, 1, 2) @ w

    def _add_moments(self, a: Array, h: Array, b: Array, w: Array) -> None:
        hh, mean = h * h, h.mean(axis=1)
        self._h3 += b @ (hh * h)
        self._h4 += b @ np.square(hh, out=hh)
        powers = np.stack([np.ones_like(mean), mean, mean * mean], axis=1)
        self._second += np.concatenate([np.ones((len(a), 1)), a, a * a], axis=1).T @ ((b * b)[:, None] * powers)
        ww = w * w
        self._ww += ww.sum(axis=0)
        if self._tails is not None:
            self._wwa += a.T @ ww
            self._wwaa += (a * a).T @ ww

    def _raise_tops(self, logs: Array, log_w: Array) -> None:
        # Weights are kept relative to the largest so far, and the sums rescaled when a larger one comes.
        top_b, top_w = max(self._top_b, float(logs.max())), np.maximum(self._top_w, log_w.max(axis=0))
        s = self._sums
        if top_b > self._top_b:
            factor = np.exp(self._top_b - top_b)
            for row in (s.b, s.a, s.h, s.hh, s.ah, s.ahh, self._h3, self._h4):
                row *= factor
            self._second *= factor**2
            self._top_b = top_b
        if (top_w > self._top_w).any():
            factors = np.exp(self._top_w - top_w)
            for row in (s.w, s.wa):
                row *= factors
            for row in (self._ww, self._wwa, self._wwaa):
                row *= factors**2
            self._top_w = top_w

    def _merge_pairs(self) -> None:
        half = self.capacity // 2
        for row in (*self._sums, self._energy):
            row[:half] = row[0::2] + row[1::2]
            row[half:] = 0.0
        self._current, self._length = half, 2 * self._length


def _capacity(products: int) -> int:
    capacity = MOST_BLOCKS
    while capacity > FEWEST_BLOCKS and 3 * 8 * capacity * products > _MOST_BYTES:
        capacity //= 2
    return capacity
