"""The parts of the report that hold averages: headline cards with their checks, running averages, members."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ase_uq.arrays import Array
from ase_uq.averages.plain import has_members
from ase_uq.averages.run_checks import run_gates
from ase_uq.averages.text import (
    format_fixed,
    format_interval,
    format_significant,
    model_error,
    model_unresolved,
    round_average,
    round_result,
)
from ase_uq.log.reader import RunLog
from ase_uq.report.averages import Average, reduced_deviations
from ase_uq.report.checks import checks_table
from ase_uq.report.figures import average_figure, member_figure
from ase_uq.report.page import count, figure, note, section, text, warning_box
from ase_uq.report.profile import profile_figure
from ase_uq.reweighting import MIN_FRAMES, ReweightResult
from ase_uq.reweighting.gate import sentences

_DOMINATES = 2.0
_METHODS = {"cea": "cumulant expansion", "direct": "direct weights", "gap": "mean energy gap", "plain": "plain average"}
# The gates speak of the fields of a result, the page of the two errors.
_WORDS = {"`std_sampling`": "the sampling error", "`std_model`": "the model error"}

_WHAT_THE_BARS_MEAN = (
    'The <span class="sampling">sampling error</span> is what a longer run would reduce. The <span class="model">model '
    "error</span> is the spread between the averages that the members would have given, free of sampling noise; only a "
    "better model reduces it. It contains neither the error of the reference method nor what all members get wrong "
    "together. Where the run is too short to tell it from sampling noise, the spread as it is bounds it: a bound is "
    "written with &lt; and drawn hatched. Both are one standard deviation, which holds less than 68 % where members or "
    "independent frames are few; the interval knows how many there are, and what error the mean of the members has."
)
_NO_MODEL_ERROR = "Model error: none, the model has no members."
_WITHOUT_MEMBERS = (
    'The <span class="sampling">sampling error</span> is what a longer run would reduce, one standard deviation. '
    "How far the averages err with the model nobody can tell from this run: the model has no members to compare."
)
_HOW_TO_READ_RUNNING = (
    f"Each point is the average over the run up to that time, from the first {MIN_FRAMES} frames on. Bands are one "
    "standard deviation; early ones may leave the picture. An average that still moves by more than its sampling band "
    "has not settled."
)
_HOW_TO_READ_MEMBERS = (
    "h is the energy a member gives to a frame minus the energy that drove the run, in units of kT; a constant "
    "difference changes no average. Widths below 0.5 are harmless, up to 1 the cumulant expansion and direct weights "
    "both hold, up to 2 only the expansion does, and beyond 2 only where observable and h are jointly Gaussian. Two "
    "humps or a long tail ask for the same care at any width."
)
_WHAT_MEMBERS_ADD = (
    "Average under each member minus the mean over members. The spread is their standard deviation; the model error is "
    "what remains of it without sampling noise, or below it where that cannot be told."
)


def results_section(run: RunLog, results: Sequence[Average], *, skip_fs: float) -> str:
    """Return the headline of every observable, after the warnings that touch it."""
    shared = _shared_warnings(results)
    gates = run_gates(run.after(skip_fs), unbiased=run.bias_energy is None)
    everywhere = [*sentences(gates), *map(_in_words, shared)]
    parts = [warning_box("Before you use any of these numbers", everywhere)]
    parts += [_card(i, average, said_above=shared) for i, average in enumerate(results)]
    parts.append(checks_table("Checks of the run", gates))
    if not results:
        parts.append("<p>No observables were logged, so that there is nothing to average.</p>")
    if any(average.result for average in results):
        start = f" The first {skip_fs:g} fs were left out of all averages." if skip_fs > 0 else ""
        parts.append(note((_WHAT_THE_BARS_MEAN if has_members(run) else _WITHOUT_MEMBERS) + start))
    if results and not everywhere and not any(average.warnings or average.problem for average in results):
        parts.append(note("No check raised a warning."))
    return "\n".join(["<section>", *filter(None, parts), "</section>"])


def running_averages_section(run: RunLog, results: Sequence[Average]) -> str:
    """Return a figure for every observable that has an average, or nothing."""
    figures = [
        figure(
            average_figure(
                time_fs=run.time_fs,
                values=average.values,
                running=average.running,
                name=average.name,
                unit=average.unit,
            ),
            name=f"average-{i}",
            description=f"{average.name}: values, running average with sampling and model error, final value",
        )
        for i, average in enumerate(results)
        if average.running is not None
    ]
    return section("Running averages", note(_HOW_TO_READ_RUNNING), *figures) if figures else ""


def members_section(run: RunLog, results: Sequence[Average]) -> str:
    """Return how far the members move against the driving energy and what each adds, or nothing without members."""
    deviations = reduced_deviations(run)
    if deviations is None:
        return ""
    names = [str(i + 1) for i in range(deviations.shape[1])]
    shapes = figure(
        member_figure(deviations, names=names),
        name="members",
        description="Distributions of the reduced energy deviation of each member, and their widths against thresholds",
        caption=_HOW_TO_READ_MEMBERS,
    )
    usable = [(average, average.result) for average in results if average.result is not None and average.axis is None]
    table = _member_table(deviations.std(axis=0), names, usable)
    return section("Members against the driving energy", shapes, note(_WHAT_MEMBERS_ADD) if usable else "", table)


def _card(index: int, average: Average, *, said_above: Sequence[str]) -> str:
    warnings = [_in_words(w) for w in average.warnings if w not in said_above]
    parts = [f"<h3>{text(average.name)}</h3>", warning_box("Read this first", warnings)]
    result = average.result
    if result is None:
        parts.append(warning_box("No average", [average.problem]))
    elif average.axis is not None:
        parts.append(_profile(index, average, result))
        parts.append(note(_below_profile(result)))
    else:
        parts.append(f'<p class="headline">{_headline(result, average.unit)}</p>')
        parts.append(note(_below_headline(result, average.unit)))
    if result is not None:
        parts.append(checks_table("Checks of this average", result.gates))
    return "\n".join(['<article class="card">', *filter(None, parts), "</article>"])


def _profile(index: int, average: Average, result: ReweightResult) -> str:
    assert average.axis is not None
    drawing = profile_figure(result, average.axis, name=average.name, unit=average.unit)
    description = f"{average.name} against {average.axis.name}, with sampling and model error and the members"
    return figure(drawing, name=f"profile-{index}", description=description)


def _below_profile(result: ReweightResult) -> str:
    varies = np.asarray(result.std_sampling) > 0
    if not varies.any():
        return text("The observable does not change along the run.")
    model_std, bound = (np.asarray(values)[varies] for values in model_error(result))
    sampling, ess = (float(np.median(np.asarray(x)[varies])) for x in (result.std_sampling, result.ess))
    said = _limiting(sampling, float(np.median(model_std))) if result.n_members else _NO_MODEL_ERROR
    if bound.any():
        said = (
            f"In {bound.sum()} of {count(len(bound), 'entry', 'entries')} that vary the run is too short to tell the "
            "model error from sampling noise; hatched is its upper bound."
        )
    frames = f"{ess:.0f} independent of {count(result.n_frames, 'frame')} (median over entries that vary)"
    method = f"Method: {_METHODS.get(result.method, result.method)}, {frames}."
    return text(f"± is one standard deviation. {said} {method}")


def _headline(result: ReweightResult, unit: str) -> str:
    rounded = round_average(result)
    number = (
        f'{rounded.mean} <span class="bar sampling">± {text(rounded.std_sampling)} <small>(sampling)</small></span>'
    )
    if result.n_members:
        number += f' <span class="bar model">± {text(rounded.std_model)} <small>(model)</small></span>'
    if rounded.exponent:
        number = f"({number}) × 10<sup>{rounded.exponent}</sup>"
    return f"{number} {text(unit)}".rstrip()


def _below_headline(result: ReweightResult, unit: str) -> str:
    frames = f"{result.ess:.0f} independent of {count(result.n_frames, 'frame')}"
    method = f"Method: {_METHODS.get(result.method, result.method)}, {frames}."
    if result.n_members == 0:
        return text(f"{_NO_MODEL_ERROR} {method}")
    if model_unresolved(result):
        return text(f"The run is too short to tell the model error from sampling noise. {method}")
    total = f"Both together ± {format_significant(result.std_total, 2)} {unit}".rstrip()
    interval = format_interval(result, unit)
    return text(
        f"{total}{f', {interval}' if interval else ''}. {_limiting(result.std_sampling, result.std_model)} {method}"
    )


def _limiting(sampling: float, model: float) -> str:
    if sampling == model == 0:
        return "The observable does not change along the run."
    if model > _DOMINATES * sampling:
        return "The model limits this average: a longer run would hardly narrow it."
    if sampling > _DOMINATES * model:
        return "The length of the run limits this average: a longer run would narrow it."
    return "Sampling and model limit this average alike."


def _shared_warnings(results: Sequence[Average]) -> list[str]:
    # Said once for all, a sentence is read; repeated in every card, it is skipped.
    first, *others = [average.warnings for average in results if average.result is not None] or [()]
    return [warning for warning in first if others and all(warning in warnings for warnings in others)]


def _in_words(warning: str) -> str:
    for field, words in _WORDS.items():
        warning = warning.replace(field, words)
    return warning


def _member_table(std: Array, names: Sequence[str], usable: Sequence[tuple[Average, ReweightResult]]) -> str:
    contributions = [_contributions(result) for _, result in usable]
    worst = int(std.argmax())
    head = "".join(f'<th scope="col">{text(a.name)}<br>{text(a.unit or "no unit")}</th>' for a, _ in usable)
    body = "\n".join(
        _member_row(name, float(std[i]), [column[i] for column in contributions], marked=i == worst)
        for i, name in enumerate(names)
    )
    foot = "\n".join(_footer_rows([result for _, result in usable])) if usable else ""
    return (
        '<div class="scroll"><table class="numbers"><thead><tr><th scope="col">Member</th>'
        f'<th scope="col">sd(h)<br>kT</th>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n'
        f"<tfoot>{foot}</tfoot></table></div>"
    )


def _member_row(name: str, std: float, cells: Sequence[str], *, marked: bool) -> str:
    start = '<tr class="worst">' if marked else "<tr>"
    rest = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'{start}<th scope="row">{text(name)}</th><td class="width">{format_fixed(std, 3)}</td>{rest}</tr>'


def _footer_rows(results: Sequence[ReweightResult]) -> Iterator[str]:
    models = [model_error(result) for result in results]
    for label, values in (
        ("Spread", [format_significant(result.std_model_naive, 2) for result in results]),
        ("Model error", [f"{'<' if bound else ''}{format_significant(size, 2)}" for size, bound in models]),
    ):
        cells = "".join(f"<td>{text(value)}</td>" for value in values)
        yield f'<tr><th scope="row">{label}</th><td></td>{cells}</tr>'


def _contributions(result: ReweightResult) -> list[str]:
    shifts = result.member_means - result.mean
    spread = round_result(0.0, result.std_model_naive, 0.0)
    # Those decimals are of numbers divided by a power of ten, which a table has no place for.
    decimals = spread.decimals - spread.exponent
    return [f"{'+' if shift > 0 else ''}{format_fixed(float(shift), decimals)}" for shift in shifts]
