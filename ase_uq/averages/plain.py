"""Averages of runs whose model has no members: mean and sampling error; of the model error nothing is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ase_uq.averages.run_checks import target_temperature
from ase_uq.errors import InputError
from ase_uq.log.ramp import check_one_temperature
from ase_uq.log.reader import RunLog
from ase_uq.reweighting import ReweightResult, reweight
from ase_uq.reweighting.axis import Axis
from ase_uq.reweighting.gate import sentences
from ase_uq.reweighting.thermostat import relaxation_frames

# What checks of a result say of its sampling; the others are about members.
SAMPLING_GATES = (
    "frames that the bias leaves",
    "length of the run in correlation lengths",
    "length of the run for the slowest energy",
    "skewness of the observable",
    "blocking has a plateau",
)


def has_members(run: RunLog) -> bool:
    """Whether a run was logged with the energies of members."""
    return run.energy_members_minus_energy is not None


def plain_average(run: RunLog, name: str) -> ReweightResult:
    """Average a logged observable over a run as it is; of a biased one without the bias that it recorded.

    Returns
    -------
    ReweightResult
        Of 0 members, with the method "plain"; all that members would tell, `std_total` included, is NaN.

    Raises
    ------
    InputError
        For a value that is not finite, fewer than 20 frames, or a run that does not say its temperature, or
        has more than one.
    """
    check_one_temperature(run.attributes, run.path)
    kelvin = target_temperature(run)
    if kelvin is None:
        raise InputError(f"`temperature_K` must be in the log, {run.path} does not say; log it with the run.")
    # Members that all give the energy of the run weigh its frames as the run did, to the last digit.
    silent = np.broadcast_to(run.energy[:, None], (run.n_frames, 2))
    found = reweight(
        run.observables[name],
        energy_members=silent,
        energy_reference=run.energy,
        temperature_K=kelvin,
        log_weights=run.log_weights,
        relaxation_frames=relaxation_frames(run.attributes, run.time_fs),
    )
    gates = tuple(gate for gate in found.gates if gate.name in SAMPLING_GATES)
    unknown = found.std_sampling * np.nan
    shape = np.shape(found.mean)
    axis = run.axes.get(name) or (Axis.of_entries(len(found.mean)) if len(shape) == 1 else None)
    return replace(
        found,
        method="plain",
        n_members=0,
        member_means=np.empty((0, *shape)),
        gates=gates,
        warnings=sentences(gates),
        unit=run.units.get(name, ""),
        axis=axis,
        std_model=unknown,
        std_total=unknown,
        std_model_naive=unknown,
        noise=unknown,
        std_potential=unknown,
        std_observable=unknown,
        max_std_h=float("nan"),
    )
