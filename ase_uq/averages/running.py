"""`running_average`: an average over the first frames of a run, for a growing number of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ase_uq.arrays import Array
from ase_uq.averages.plain import has_members, plain_average
from ase_uq.averages.runs import averaged, settings_of
from ase_uq.averages.sources import source_of
from ase_uq.averages.text import model_error
from ase_uq.log.parts import opened
from ase_uq.log.reader import RunLog
from ase_uq.reweighting import MIN_FRAMES, ReweightResult

N_PREFIXES = 40
# Running averages of longer runs are formed from every k-th frame: 40 of them cost 20 times the whole average.
LONGEST_PREFIX_RUN = 20_000


@dataclass(frozen=True, slots=True)
class RunningAverage:
    """An average over the first frames of a run with both its bars, for a growing number of frames.

    Attributes
    ----------
    time_fs, mean, std_sampling, std_model, std_total
        (n_points,) each; the last entry is the whole run.
    bound
        (n_points,), where `std_model` is an upper bound only: the spread of members that cannot be told from sampling
        noise. `None` for nowhere.

    `std_model` and `std_total` are NaN where the model has no members.
    """

    time_fs: Array
    mean: Array
    std_sampling: Array
    std_model: Array
    std_total: Array
    bound: NDArray[np.bool_] | None = None


def running_average(run: RunLog, name: str, whole: ReweightResult) -> RunningAverage:
    """Average a number of a run over its first frames, up to all of them, for which `whole` is the average."""
    stride = -(-run.n_frames // LONGEST_PREFIX_RUN)
    shortest = max(MIN_FRAMES * stride, run.n_frames // N_PREFIXES)
    ends = np.unique(np.linspace(shortest, run.n_frames, N_PREFIXES).astype(int)).tolist()
    shorter = [slice(0, end, stride) for end in ends if end < run.n_frames]
    results = [*_over(run, name, shorter), whole]
    model, bound = (np.array(values) for values in zip(*map(model_error, results), strict=True))
    sampling = np.array([result.std_sampling for result in results])
    return RunningAverage(
        time_fs=run.time_fs[[rows.stop - 1 for rows in shorter] + [run.n_frames - 1]],
        mean=np.array([result.mean for result in results]),
        std_sampling=sampling,
        std_model=model,
        std_total=np.hypot(sampling, model),
        bound=bound,
    )


def _over(run: RunLog, name: str, shorter: list[slice]) -> list[ReweightResult]:
    if not has_members(run):
        return [plain_average(run.frames(rows), name) for rows in shorter]
    with opened(run) as (part,):
        settings = settings_of([part])
        sources = {name: source_of([part], name, settings)}
        prefixes = [replace(part, stop=rows.stop, step=rows.step) for rows in shorter]
        return [averaged(sources, [prefix], settings)[name] for prefix in prefixes]
