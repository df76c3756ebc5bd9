"""Averages over frames some of which have no value: how many were left out, and that it is said."""

from __future__ import annotations

from dataclasses import replace

from ase_uq.reweighting.gates import Gate, sentences
from ase_uq.reweighting.result import ReweightResult


def without_values(result: ReweightResult, name: str, n_missing: int, gates: tuple[Gate, ...] = ()) -> ReweightResult:
    """Return a result with checks of its values before its own: `gates`, and one for frames that had none."""
    if n_missing:
        n_frames = result.n_frames + n_missing
        sentence = (
            f"{name!r} has no value in {n_missing} of {n_frames} frames ({100.0 * n_missing / n_frames:.2g} %), which "
            "are left out of its average: what it would be there is not known; see why its function fails in them."
        )
        gates = (*gates, Gate("frames without a value", float(n_missing), 0.0, "frames", False, True, sentence))
    return replace(result, gates=(*gates, *result.gates), warnings=(*sentences(gates), *result.warnings))
