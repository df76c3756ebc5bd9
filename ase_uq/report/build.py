"""The report of a run: one HTML page that holds everything it shows, text and figures alike.

The order follows the reader: the averages with their error bars, each after the warnings that touch it; what was run;
then the evidence, from energies against time down to the part each member has in the model error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from ase.symbols import Symbols

from ase_uq.arrays import Array
from ase_uq.averages.run_checks import target_temperature
from ase_uq.averages.text import format_significant
from ase_uq.errors import InputError
from ase_uq.files import check_stays, followed, replacing
from ase_uq.log.estimator import estimator_of
from ase_uq.log.parts import observe
from ase_uq.log.ramp import told_ramp
from ase_uq.log.reader import RunLog, recorded
from ase_uq.observables import ObservableLike, named_observables
from ase_uq.report.averages import Average, averages
from ase_uq.report.figures import (
    LONGEST_PLAIN_SERIES,
    N_BUCKETS,
    energy_figure,
    time_unit,
    uncertainty_figure,
    weight_figure,
)
from ase_uq.report.page import count, facts_table, figure, grouped, section, text
from ase_uq.report.sections import members_section, results_section, running_averages_section
from ase_uq.reweighting import ReweightResult

_HASH_CHARACTERS = 12
_DRIVERS = {
    "model": "the model",
    "trajectory": "what gave an old trajectory its energies",
    "weighted_baseline": "the model on a weighted baseline",
    "threshold_switch": "the model, switched to a baseline above a threshold",
}


def write_report(
    run_path: str | Path,
    out_path: str | Path,
    *,
    title: str | None = None,
    observables: Sequence[str] | None = None,
    compute: Mapping[str, ObservableLike] | None = None,
    skip_fs: float = 0.0,
) -> dict[str, ReweightResult]:
    """Read a log and write its report; the file appears whole or not at all.

    Parameters
    ----------
    run_path, out_path
        Log and page.
    title, observables, skip_fs
        As for `build_report`.
    compute
        Name to further observable, to work out from stored positions, as for `of_run`.

    Returns
    -------
    dict
        Name to result, of the observables that could be averaged.

    Raises
    ------
    InputError
        If the log cannot be read, lacks an observable, the folder of `out_path` does not exist, or `out_path` is the
        log or another file that is no page.
    """
    _check_page(out_path, run_path)
    run = recorded(run_path, per_atom=False, stored=bool(compute))
    if compute:
        run = _with_computed(run, compute)
        observables = None if observables is None else [*observables, *(set(run.observables) - set(observables))]
    results = _averages(run, observables, skip_fs)
    page = _page(run, results, title, skip_fs)
    with replacing(out_path) as aside:
        aside.write_text(page, encoding="utf-8")
    return {average.name: average.result for average in results if average.result is not None}


def _check_page(path: str | Path, run_path: str | Path) -> None:
    """Refuse to replace what is no page; an earlier page is written anew."""
    check_stays(path, [run_path])
    target = followed(path)
    if not target.is_file():
        return
    with target.open("rb") as stream:
        start = stream.read(512).lstrip().lower()
    if start and not start.startswith((b"<!doctype html", b"<html")):
        raise InputError(f"`{path}` exists and is no HTML page; choose another name for the report.")


def _with_computed(run: RunLog, compute: Mapping[str, ObservableLike]) -> RunLog:
    observables = named_observables(compute)
    return replace(
        run,
        observables={**run.observables, **{name: observe(run.path, each, name) for name, each in observables.items()}},
        units={**run.units, **{name: each.unit for name, each in observables.items()}},
        axes={**run.axes, **{name: each.axis for name, each in observables.items() if each.axis is not None}},
    )


def build_report(
    run: RunLog, *, title: str | None = None, observables: Sequence[str] | None = None, skip_fs: float = 0.0
) -> str:
    """Return the report of a run as one self-contained HTML page.

    Parameters
    ----------
    title
        Heading of the page; the name of the log by default.
    observables
        Names of the observables to average; all by default.
    skip_fs
        Time at the start of the run that averages leave out as equilibration, fs; figures against time show all of it.

    Raises
    ------
    InputError
        If the log has no frames, no observable of a name, or ends before `skip_fs`.
    """
    return _page(run, _averages(run, observables, skip_fs), title, skip_fs)


def _averages(run: RunLog, observables: Sequence[str] | None, skip_fs: float) -> list[Average]:
    if run.n_frames == 0:
        raise InputError("`run` must hold at least one frame to report on, got 0; run longer or flush the log.")
    return averages(run, observables, skip_fs=skip_fs)


def _page(run: RunLog, results: Sequence[Average], title: str | None, skip_fs: float) -> str:
    sections = [
        results_section(run, results, skip_fs=skip_fs),
        _what_was_run(run),
        _energy_section(run),
        _uncertainty_section(run),
        _weight_section(run),
        running_averages_section(run, results),
        members_section(run, results),
    ]
    template = resources.files(__package__).joinpath("template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=text(title or Path(run.path).name),
        lead=text(_lead(run)),
        body="\n".join(filter(None, sections)),
        footer=text(f"Written by ase_uq from the log {Path(run.path).name}."),
    )


def _lead(run: RunLog) -> str:
    target = target_temperature(run)
    parts = [_formula(run), count(run.n_frames, "frame"), _duration(run), "" if target is None else f"{target:g} K"]
    return " · ".join([*filter(None, parts), f"driven by {_driver(run)}"])


def _what_was_run(run: RunLog) -> str:
    recorded = [(name, str(value)) for name, value in sorted(run.attributes.items()) if np.ndim(value) == 0]
    return section(
        "What was run",
        facts_table(_facts(run)),
        f"<details><summary>All attributes of the log</summary>{facts_table(recorded)}</details>",
    )


def _facts(run: RunLog) -> Iterator[tuple[str, str]]:
    a, target = run.attributes, target_temperature(run)
    timestep, sigma, alpha = (float(a.get(name, np.nan)) for name in ("timestep_fs", "sigma_baseline", "alpha"))
    yield "Atoms", _formula(run)
    yield "Model", str(a.get("model", ""))
    yield "Model hash", str(a.get("model_hash", ""))[:_HASH_CHARACTERS]
    n_members = a.get("n_members", "")
    yield "Members", "none" if n_members == 0 else str(n_members)
    if np.isfinite(alpha):
        yield "Calibration α", _calibration(alpha, float(a.get("alpha_forces", alpha)))
    if "mean_share" in a:
        pinned = float(a["mean_share"]) == 0.0
        yield "Mean of the members", "pinned to them, no error of its own" if pinned else "of independent members"
    yield "Driven by", _driver(run)
    yield "Width of the baseline", f"{sigma:g} eV" if np.isfinite(sigma) else ""
    yield "Ensemble", str(a.get("ensemble", "")).upper()
    mean = f"{_finite(run.temperature_K).mean():.1f} K mean" if len(_finite(run.temperature_K)) else ""
    asked = told_ramp(a) or ("" if target is None else f"{target:g} K target")
    yield "Temperature", ", ".join(filter(None, [asked, mean]))
    if "pressure_GPa" in a:
        yield "Pressure", f"{float(a['pressure_GPa']):g} GPa target"
    yield "Time step", f"{timestep:g} fs" if np.isfinite(timestep) else ""
    yield "Frames", f"{grouped(run.n_frames)}, steps {grouped(int(run.step[0]))} to {grouped(int(run.step[-1]))}"
    yield "Simulated time", _duration(run)
    names = (("ase_uq_version", "ase_uq"), ("ase_version", "ASE"))
    yield "Versions", ", ".join(f"{name} {a[key]}" for key, name in names if key in a)


def _calibration(alpha: float, forces: float) -> str:
    if alpha == 1 and forces == 1:
        return "1, not calibrated"
    return f"{format_significant(alpha)}, of the variance of forces {format_significant(forces)}"


def _energy_section(run: RunLog) -> str:
    drawing = energy_figure(
        time_fs=run.time_fs,
        energy=run.energy,
        kinetic_energy=run.kinetic_energy,
        temperature_K=run.temperature_K,
        target_K=target_temperature(run),
    )
    biased = "" if run.bias_energy is None else ", with that of the bias, which averages leave out"
    caption = f"The potential energy is the one the integrator saw{biased}; it starts from {run.energy[0]:.4f} eV."
    if run.n_frames > LONGEST_PLAIN_SERIES:
        caption += (
            f" In this and the next figures a line is the mean over each of {N_BUCKETS} intervals, a band their "
            "extremes."
        )
    description = "Potential and total energy since the first frame, and temperature, against time"
    return section("Energy and temperature", figure(drawing, name="energy", description=description, caption=caption))


def _uncertainty_section(run: RunLog) -> str:
    if run.energy_var is None and run.force_std_max is None:
        return ""
    drawing = uncertainty_figure(
        time_fs=run.time_fs,
        energy_std=None if run.energy_var is None else np.sqrt(run.energy_var),
        force_std_max=run.force_std_max,
        force_std_mean=run.force_std_mean,
    )
    caption = (
        "One standard deviation as the model states it; for a force, the norm over its three components. "
        "A rise that stays marks a region the model was not trained on."
    )
    caption += _estimator(run)
    description = "Standard deviation of energy and forces against time"
    return section("How sure the model was", figure(drawing, name="std", description=description, caption=caption))


def _estimator(run: RunLog) -> str:
    """Say of the variance of forces what it is worth where it is not exact at every step."""
    options = estimator_of(run.attributes)
    name = options.pop("name", "off")
    if name == "off" or (name == "exact" and options.get("every", 1) == 1):
        return ""
    said = f" The forces come from the estimator {name} ({', '.join(f'{key}={v}' for key, v in options.items())})."
    if name == "stochastic":
        said += " A single one of its values means little; look at averages over time."
    return said


def _weight_section(run: RunLog) -> str:
    if run.weight is None:
        return ""
    lowest = int(run.weight.argmin())
    scale, unit = time_unit(run.time_fs)
    caption = (
        f"Mean {run.weight.mean():.3f}; lowest {run.weight[lowest]:.3f}, at {run.time_fs[lowest] / scale:.4g} {unit}. "
        f"Below 0.5 in {np.mean(run.weight < 0.5):.1%} of the frames."
    )
    description = "Weight of the model against the baseline, between 0 and 1, against time"
    drawing = weight_figure(time_fs=run.time_fs, weight=run.weight)
    return section("Weight of the model", figure(drawing, name="weight", description=description, caption=caption))


def _formula(run: RunLog) -> str:
    numbers: Any = run.attributes.get("numbers")
    return "" if numbers is None else str(Symbols(np.asarray(numbers)).get_chemical_formula())


def _driver(run: RunLog) -> str:
    name = str(run.attributes.get("driver", "model"))
    return _DRIVERS.get(name, name)


def _duration(run: RunLog) -> str:
    length = float(run.time_fs[-1] - run.time_fs[0])
    scale, unit = time_unit(np.array([length]))
    return f"{length / scale:.4g} {unit}"


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]
