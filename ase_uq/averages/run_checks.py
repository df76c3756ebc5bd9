"""Gates of a run as a whole: whether it sampled what reweighting takes it to have sampled.

=========================================  ================================================================
symbol                                     variable
=========================================  ================================================================
E_kin                                      `kinetic_energy`
f                                          `degrees`, 2 E_kin/(kB T), T being the instantaneous temperature
f (kB T)^2/2                               variance of E_kin at constant temperature T
=========================================  ================================================================

References
----------
Shirts, J. Chem. Theory Comput. 9, 909 (2013), arXiv:1208.0910: kinetic energies as a test of the ensemble.
Berendsen et al., J. Chem. Phys. 81, 3684 (1984): a thermostat without an ensemble.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from ase.units import kB

from ase_uq.log.explosion import exploded
from ase_uq.log.ramp import ramp_of, told_ramp
from ase_uq.log.reader import VOLUME_TOLERANCE, RunLog, bias_by_hand
from ase_uq.reweighting import MIN_FRAMES
from ase_uq.reweighting.gate import YES_OR_NO, Gate, explosion_gate
from ase_uq.reweighting.statistics import SamplingError, sampling_error
from ase_uq.reweighting.thermostat import relaxation_frames

# Datasets of a log that the checks look at.
CHECKED = ("step", "time_fs", "energy", "kinetic_energy", "temperature_K", "volume", "weight", "bias_energy")
LOW_WEIGHT = 0.5
_NOTABLE_SHARE = 0.01
_SIGNIFICANT = 4.0  # standard errors
_TEMPERATURE_TOLERANCE = 0.02
_FLUCTUATION_TOLERANCE = 0.15  # of the variance
_WITHOUT_ENSEMBLE = ("NVTBerendsen", "NPTBerendsen", "Inhomogeneous_NPTBerendsen")
_FORCES_WITH_ENERGY = ("Hookean", "ExternalForce")
_FORCES_WITHOUT_ENERGY = ("MirrorForce", "MirrorTorque")
_CHANGE_OF_BIAS = 1.0  # kT
_DRIFT_OF_FLUCTUATION = 3.0
_CONSERVED = 0.01  # of the variance of the kinetic energy


def run_gates(run: RunLog, *, unbiased: bool = True) -> tuple[Gate, ...]:
    """All checks of a run; what its log does not say is not judged.

    Parameters
    ----------
    unbiased
        Whether averages are taken without weights of a bias.
    """
    first = (*_damage(run), *(explosion := tuple(_explosion(run))))
    if any(gate.failed for gate in explosion):
        # It samples nothing, and what else is wrong with it follows.
        return first
    checks = (
        _calibration,
        _ensemble,
        _volume,
        _ramp,
        _thermostat,
        _temperature,
        _fluctuation,
        _drift,
        _fallback,
        _switch,
    )
    of_bias = (_bias, _growing_bias)
    found = (*(check(run) for check in checks), *(check(run, unbiased=unbiased) for check in of_bias))
    return (*first, *(gate for gates in found for gate in gates))


def gates_of_runs(runs: Iterable[RunLog], n_runs: int, *, unbiased: bool = True) -> tuple[Gate, ...]:
    """Checks of so many runs that are averaged together; what fails in some of them says in which.

    Arguments as for `run_gates`.
    """
    found: dict[str, list[tuple[str, Gate]]] = {}
    for run in runs:
        for gate in run_gates(run, unbiased=unbiased):
            found.setdefault(gate.name, []).append((run.path.name, gate))
    return tuple(gate for gates in found.values() for gate in _together(gates, n_runs))


def _together(gates: list[tuple[str, Gate]], n_runs: int) -> Iterator[Gate]:
    said: dict[str, list[tuple[str, Gate]]] = {}
    for name, gate in gates:
        if gate.failed:
            said.setdefault(gate.sentence, []).append((name, gate))
    if not said:
        yield gates[0][1]
    for sentence, where in said.items():
        names = ", ".join(name for name, _ in where)
        yield where[0][1] if len(where) == n_runs else replace(where[0][1], sentence=f"{names}: {sentence}")


def target_temperature(run: RunLog) -> float | None:
    """Target of the thermostat in K, or `None` when the log does not know it, or it changes along the run."""
    if ramp_of(run.attributes) is not None:
        return None
    value = float(run.attributes.get("temperature_K", np.nan))
    return value if np.isfinite(value) and value > 0 else None


def _gate(name: str, value: float, limit: float, unit: str, failed: bool, sentence: str) -> Gate:
    return Gate(name, value, limit, unit, at_least=False, failed=bool(failed), sentence=sentence)


def _damage(run: RunLog) -> Iterator[Gate]:
    for what in run.damage:
        sentence = f"the log is damaged: {what}; the averages are of the frames that are whole, restore it from a copy"
        yield _gate(f"damage: {what}", 1.0, 0.0, YES_OR_NO, True, sentence)


def _explosion(run: RunLog) -> Iterator[Gate]:
    yield explosion_gate(exploded(run))


def _calibration(run: RunLog) -> Iterator[Gate]:
    alpha = float(run.attributes.get("alpha", 1.0))
    sentence = (
        "the model is not calibrated (alpha = 1): members usually spread less than they err, so take every "
        "standard deviation and every model error below as a lower bound until the model is calibrated."
    )
    yield _gate("model without calibration", float(alpha == 1.0), 0.0, YES_OR_NO, alpha == 1.0, sentence)


def _ensemble(run: RunLog) -> Iterator[Gate]:
    failed = _constant_energy(run)
    sentence = (
        "the run was made at constant energy, while model errors are worked out for constant temperature: take "
        "them as an estimate, or run with a thermostat."
    )
    yield _gate("run at constant energy", float(failed), 0.0, YES_OR_NO, failed, sentence)


def _volume(run: RunLog) -> Iterator[Gate]:
    if str(run.attributes.get("ensemble", "")).lower() not in ("nvt", "nve") or not np.isfinite(run.volume).all():
        return
    change = float(np.ptp(run.volume) / run.volume.mean())
    sentence = (
        f"the volume changes by {change:.2%} in a run that was logged as {run.attributes['ensemble']}: the pressure "
        "it was held at is not known, and what holds at constant volume does not hold here; log it as npt."
    )
    yield _gate("change of a fixed volume", change, VOLUME_TOLERANCE, "", change > VOLUME_TOLERANCE, sentence)


def _ramp(run: RunLog) -> Iterator[Gate]:
    if told := told_ramp(run.attributes):
        sentence = (
            f"the temperature of the thermostat went from {told} along the run: it sampled no ensemble, and has no "
            "averages; run on at one temperature for those."
        )
        yield _gate("temperature that changes", 1.0, 0.0, YES_OR_NO, True, sentence)


def _thermostat(run: RunLog) -> Iterator[Gate]:
    name = str(run.attributes.get("dynamics", ""))
    if name:
        sentence = (
            f"the run was made with {name}, which samples no known ensemble: weights exp(-beta V) have no footing "
            "there; use Langevin, Bussi or Nosé-Hoover chains."
        )
        failed = name in _WITHOUT_ENSEMBLE
        yield _gate("thermostat without an ensemble", float(failed), 0.0, YES_OR_NO, failed, sentence)


def _temperature(run: RunLog) -> Iterator[Gate]:
    target, t = target_temperature(run), run.temperature_K[np.isfinite(run.temperature_K)]
    if target is None or len(t) < MIN_FRAMES or _constant_energy(run) or not t.any():
        return
    # From the second half: a transient at the start would enter its own error, and hide in it.
    half = _paced(run, sampling_error(t[len(t) // 2 :], relaxation_frames=_relaxation(run)))
    gap, error = float(t.mean()) - target, half.std / np.sqrt(2.0)
    # However slowly it moves, no mean is as far off as a single frame would be.
    degrees = 2.0 * float(np.nanmean(run.kinetic_energy)) / (kB * t.mean())
    chance = min(half.as_rare_as(_SIGNIFICANT) * error, _SIGNIFICANT * target * np.sqrt(2.0 / max(degrees, 1.0)))
    most = max(chance, _TEMPERATURE_TOLERANCE * target)
    sentence = (
        f"the mean temperature is {t.mean():.0f} K where {target:g} K was asked for, {abs(gap) / max(error, 1e-9):.0f} "
        "standard errors away: the run is not equilibrated, or not in the ensemble it claims."
    )
    yield _gate("mean temperature against its target", abs(gap), most, "K", abs(gap) > most and error > 0, sentence)


def _relaxation(run: RunLog) -> float:
    return relaxation_frames(run.attributes, run.time_fs)


def _paced(run: RunLog, found: SamplingError) -> SamplingError:
    """Nothing in a run is known to move faster than its total energy, which only the thermostat changes."""
    total = (run.energy + run.kinetic_energy)[run.n_frames // 2 :]
    if len(total) < MIN_FRAMES or not np.isfinite(total).all():
        return found
    return replace(found, lengths=min(found.lengths, sampling_error(total).resolved))


def _fluctuation(run: RunLog) -> Iterator[Gate]:
    known = np.isfinite(run.kinetic_energy) & (run.temperature_K > 0)
    k, target = run.kinetic_energy[known], target_temperature(run)
    if target is None or len(k) < MIN_FRAMES or _constant_energy(run) or np.ptp(k) == 0:
        return
    degrees = float(np.median(2.0 * k / (kB * run.temperature_K[known])))
    canonical = 0.5 * degrees * (kB * target) ** 2
    squares = (k - k.mean()) ** 2
    sampling = sampling_error(squares, relaxation_frames=_relaxation(run))
    # The mean is estimated from the same frames and takes its own variance out of them.
    ratio = float(squares.mean() + sampling_error(k).std ** 2) / canonical
    most = max(_FLUCTUATION_TOLERANCE, _paced(run, sampling).as_rare_as(_SIGNIFICANT) * sampling.std / canonical)
    sentence = (
        f"the kinetic energy fluctuates {ratio:.2f} times as much as at constant temperature (variance): the "
        "thermostat does not sample the canonical ensemble, on which model errors rest, or the run is not equilibrated."
    )
    yield _gate(
        "variance of the kinetic energy against the canonical one",
        abs(ratio - 1.0),
        most,
        "",
        abs(ratio - 1.0) > most,
        sentence,
    )


def _drift(run: RunLog) -> Iterator[Gate]:
    total = run.energy + run.kinetic_energy
    if not _constant_energy(run) or len(total) < MIN_FRAMES or not np.isfinite(total).all():
        return
    time = run.time_fs - run.time_fs.mean()
    slope = float(time @ total / (time @ time))
    drift = abs(slope) * float(np.ptp(run.time_fs))
    width = float((total - total.mean() - slope * time).std())
    most = _DRIFT_OF_FLUCTUATION * width
    sentence = (
        f"the total energy drifts by {drift:.2g} eV along the run, against fluctuations of {width:.2g} eV: forces are "
        "not the gradient of the energy, or the time step is too long; without conservative forces reweighting has no "
        "footing."
    )
    yield _gate("drift of the total energy", drift, most, "eV", drift > most, sentence)


def _fallback(run: RunLog) -> Iterator[Gate]:
    if run.weight is None:
        return
    share = float(np.mean(run.weight < LOW_WEIGHT))
    sentence = (
        f"in {share:.0%} of the frames the weight of the model was below {LOW_WEIGHT:g}: there the run followed "
        "the baseline, whose own error no bar below contains."
    )
    yield _gate("frames that followed the baseline", share, _NOTABLE_SHARE, "", share > _NOTABLE_SHARE, sentence)


def _switch(run: RunLog) -> Iterator[Gate]:
    if str(run.attributes.get("driver", "")) != "threshold_switch" or run.weight is None:
        return
    switched = bool(0 < run.weight.mean() < 1)
    sentence = (
        "the run switched between the model and the baseline, where the energy jumps: it sampled no known ensemble, "
        "and averages under the members have no footing; use a weighted baseline."
    )
    yield _gate("switched between model and baseline", float(switched), 0.0, YES_OR_NO, switched, sentence)


def _bias(run: RunLog, *, unbiased: bool) -> Iterator[Gate]:
    names = str(run.attributes.get("constraints", "")).split(", ")
    without = [name for name in names if name in _FORCES_WITHOUT_ENERGY]
    sentence = (
        f"{', '.join(without)} adds forces without an energy: no weights take them away, and averages are those of the "
        "run with them."
    )
    yield _gate("forces without an energy", float(len(without)), 0.0, "", bool(without), sentence)
    if not unbiased:
        return
    own = [name for name in names if name in _FORCES_WITH_ENERGY]
    logged = bias_by_hand(run.units)
    what = f"{own[0]} adds forces of its own" if own else "" if logged is None else f"the bias {logged!r} was logged"
    if run.bias_energy is not None and not own:
        what = f"by {run.attributes.get('bias') or 'a constraint'}"
    sentence = (
        f"the run was biased ({what}), and averages were taken without weights: they are those of the biased run; pass "
        "the bias energy as weights (`bias`, `log_weights`), or take it as it is."
    )
    yield _gate("bias without weights", float(bool(what)), 0.0, YES_OR_NO, bool(what), sentence)


def _growing_bias(run: RunLog, *, unbiased: bool) -> Iterator[Gate]:
    target = target_temperature(run)
    if unbiased or run.bias_energy is None or target is None or len(run.bias_energy) < 2 * MIN_FRAMES:
        return
    bias = run.bias_energy / (kB * target)
    first, second = np.array_split(bias, 2)
    gap = float(second.mean() - first.mean())
    # About a straight line: what grows would enter its own error, and hide in it.
    time = np.linspace(-1.0, 1.0, len(bias))
    around = bias - bias.mean() - time * float(time @ bias) / float(time @ time)
    error = 2.0 * sampling_error(around).std
    sentence = (
        f"the bias energy changes by {gap:+.3g} kT from one half of the run to the other: weights exp(bias/kT) are "
        "those of a bias that stays the same, so leave out the time in which it was built up, or log the bias less its "
        "constant c(t) and pass that."
    )
    most = max(_CHANGE_OF_BIAS, _SIGNIFICANT * error)
    yield _gate("change of the bias along the run", abs(gap), most, "kT", abs(gap) > most, sentence)


def _constant_energy(run: RunLog) -> bool:
    return str(run.attributes.get("ensemble", "")).lower() in ("nve", "nph") or _conserved(run)


def _conserved(run: RunLog) -> bool:
    """Whether the total energy hardly fluctuates where the kinetic energy does: no thermostat touched it."""
    total, kinetic = run.energy + run.kinetic_energy, run.kinetic_energy
    if len(total) < MIN_FRAMES or not np.isfinite(total).all():
        return False
    return bool(0 < total.var() < _CONSERVED * kinetic.var())
