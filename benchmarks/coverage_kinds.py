"""Two kinds in one set that want different factors: coverage of each, and whether the calibration says so.

=================  ====================================================================================
set                kinds
=================  ====================================================================================
sizes              small and large cells, of which the config_type says nothing
config_type        two names of the same size
elements           forces on the atoms of one element and the other
=================  ====================================================================================

The truth deviates by alpha in one kind and by alpha times the ratio in the other, in directions of its own. With a
ratio of one there is nothing to say; how large the errors of one truth are differs from kind to kind by chance all the
same. "Each alone": the cure, a factor of its own for each kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms
from coverage_members import Frames, Members
from coverage_trial import Fit, FitTrial

from ase_uq.structures.frames import Frame
from ase_uq.validation.residuals import residuals, with_factors

WAVES = 200
RATIOS = 1.0, 1.5, 2.0, 3.0
MEMBERS = {"4 independent": (4, False), "8 pinned": (8, True)}
SETS = {
    "sizes": ("energy", "composition", {"small": "H4C2", "large": "H12C6"}),
    "config_type": ("energy", "config_type", {"one": "H4C2", "other": "H4C2"}),
    "elements": ("forces", "element", {"H": "H4C2", "C": "H4C2"}),
}
SAID = "want different factors"


def coverage(*, repeats: int, frames: int) -> list[Fit]:
    """Return two rows, one a kind, for each case; half of the frames calibrate."""
    found = []
    for members in MEMBERS:
        for name in SETS:
            for ratio in RATIOS:
                found += _rows(members, name, ratio, repeats, frames, alone=False)
        found += _rows(members, "sizes", RATIOS[-1], repeats, frames, alone=True)
    return found


def _rows(members: str, name: str, ratio: float, repeats: int, frames: int, *, alone: bool) -> list[Fit]:
    trials = [_trial(seed, members, name, ratio, frames, alone) for seed in range(repeats)]
    case = f"two kinds, {name}{', each alone' if alone else ''}, 1 : {ratio:g}, {members}"
    return [Fit.of(case, kind, [each[kind] for each in trials], word=SAID, one_alpha=alone) for kind in trials[0]]


def _trial(seed: int, members: str, name: str, ratio: float, n_frames: int, alone: bool) -> dict[str, FitTrial]:
    rng = np.random.default_rng(seed)
    (n_members, pinned), (_, grouping, formulas) = MEMBERS[members], SETS[name]
    kinds = rng.permutation(np.resize(list(formulas), n_frames))
    frames = Frames.random(rng, [formulas[kind] for kind in kinds], waves=WAVES)
    alpha = float(np.exp(rng.uniform(*np.log((0.6, 1.2)))))
    factors = dict(zip(formulas, (alpha, ratio * alpha), strict=True))
    drawn = rng.normal(size=(n_members, frames.features.shape[1]))
    if pinned:
        drawn -= drawn.mean(axis=0)
    mean = rng.normal(size=drawn.shape[1])
    law = {"mean_share": 0.0 if pinned else 1.0 / n_members}
    model = Members((mean + drawn) @ frames.features.T, frames.forces(mean + drawn), law)
    # The elements have their halves of the weights, carbon the second.
    truths = {kind: mean + factor * rng.normal(size=len(mean)) for kind, factor in factors.items()}
    if name == "elements":
        first, second = truths.values()
        truths = dict.fromkeys(formulas, np.concatenate([first[:WAVES], second[WAVES:]]))
    energies = {kind: frames.features @ weights for kind, weights in truths.items()}
    forces = {kind: frames.forces(weights) for kind, weights in truths.items()}
    labelled = frames.labelled(
        np.array([energies[kind][i] for i, kind in enumerate(kinds)]),
        [forces[kind][i] for i, kind in enumerate(kinds)],
        kinds.tolist() if grouping == "config_type" else [""] * n_frames,
    )
    if alone:
        parts = {kind: [each for each, own in zip(labelled, kinds, strict=True) if own == kind] for kind in formulas}
        return {kind: _judged(model, part, name, factors)[kind] for kind, part in parts.items()}
    return _judged(model, labelled, name, factors)


def _judged(model: Members, frames: Sequence[Frame], name: str, factors: Mapping[str, float]) -> dict[str, FitTrial]:
    """Calibrate on the first half of the frames, and score each kind in the second."""
    quantity, grouping, formulas = SETS[name]
    half = len(frames) // 2
    fitted = residuals(model, frames[:half]).factors()
    judged = residuals(with_factors(model, fitted), frames[half:])
    scores = judged.energy_scores(centred=True) if quantity == "energy" else judged.force_scores()
    within, fit = {each.group: each for each in scores.within}, fitted[quantity]
    found = {}
    for kind, formula in formulas.items():
        label = Atoms(formula).get_chemical_formula() if grouping == "composition" else kind
        if (score := within.get(f"{grouping}={label}")) is not None:
            near = abs(fit.alpha - factors[kind]) <= 2.0 * fit.alpha_std_error
            covered = (score.coverage_68, score.coverage_95)
            found[kind] = FitTrial(covered, fit.alpha / factors[kind], near, fit.warnings)
    return found
