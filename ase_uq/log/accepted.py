"""What a log may be made of; a file with anything else is refused in one sentence before a value is read from it.

A log comes from a queue, a colleague or a stranger. It is data and never points outside itself: no external or symbolic
links, no storage in other files, no virtual datasets. Its settings are numbers and texts where they should be, its
datasets have one row a frame, and none is larger than what the file can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ase_uq.errors import InputError
from ase_uq.log.columns import KINDS, OBSERVABLES
from ase_uq.log.observables import axis_of

# Compressed frames of a run are a few times smaller; what is a hundred times smaller was made for that.
_MOST_EXPANSION, _EXPANSION_FREE = 100, 2**28
_LARGEST_ELEMENT = 118
_LARGEST_ROW = 2**31

_POSITIVE = ("temperature_K", "temperature_end_K", "timestep_fs", "alpha", "alpha_forces", "dof")
_NUMBERS = ("alpha_stress", "mean_share", "n_members", "ddof", "pressure_GPa", "thermostat_time_fs", "sigma_baseline")
_TEXTS = (
    "ensemble",
    "driver",
    "model",
    "model_hash",
    "dynamics",
    "constraints",
    "energy_offsets",
    "bias",
    "forces_var",
)
# Shapes of a frame, N atoms.
_NUMBER_A_FRAME = tuple(
    name for name, kind in KINDS.items() if not kind.per_atom and name != "energy_members_minus_energy"
)


def check_version(path: Path, attributes: Mapping[str, Any], name: str, newest: int) -> None:
    """Refuse a file that is no log, or one of a version that is not known."""
    found = attributes.get("format")
    if not (isinstance(found, str) and found == name):
        raise InputError(f"`{path}` must be a log of ase_uq, its format is {_shown(found)}; check the path.")
    version = attributes.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(
            f"`{path}` must say its `format_version`, a whole number, got {_shown(version)}; the frames may well be "
            f"whole: set the attribute again ({newest} for logs so far) and read the log."
        )
    if version > newest:
        raise InputError(f"`{path}` has format version {version}, this ase_uq reads up to {newest}; upgrade ase_uq.")


def check_settings(path: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse settings of a type or size that no log has."""
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        **dict.fromkeys(_NUMBERS, (_is_number, "a number")),
        **dict.fromkeys(_POSITIVE, (lambda value: _is_number(value) and value > 0, "a positive number")),
        **dict.fromkeys(_TEXTS, (lambda value: isinstance(value, str), "a text")),
        "numbers": (_are_elements, "atomic numbers"),
        "cell": (lambda value: _has_shape(value, (3, 3)), "three vectors"),
        "pbc": (lambda value: _has_shape(value, (3,)), "three truth values"),
    }
    for name, value in attributes.items():
        rule, meaning = rules.get(name, (_is_plain, "a number or a text"))
        if not rule(value):
            raise InputError(f"`{path}` must have {meaning} as its attribute `{name}`, got {_shown(value)}.")


def check_link(path: Path, group: Any, name: str) -> None:
    """Refuse a name that stands for something elsewhere."""
    kind = type(group.get(name, getlink=True))
    if kind is not h5py.HardLink:
        raise InputError(
            f"`{path}` must hold its own data, {name!r} is a link to something else ({kind.__name__}); a log has none."
        )


def check_dataset(path: Path, name: str, dataset: Any, attributes: Mapping[str, Any]) -> None:
    """Refuse a dataset that no log has; `name` is its path in the file."""
    if not isinstance(dataset, h5py.Dataset):
        raise InputError(f"`{path}` must have a dataset at {name!r}, got {type(dataset).__name__}.")
    if dataset.is_virtual or dataset.external:
        raise InputError(f"`{path}` must hold its own data, {name!r} lies in other files; copy the values.")
    kinds = "iu" if name == "step" else "fiub"
    if dataset.dtype.kind not in kinds or dataset.dtype.itemsize > 8:
        raise InputError(f"`{path}` must have numbers in {name!r}, got the type {dataset.dtype}.")
    shape = dataset.shape
    if not shape:
        raise InputError(f"`{path}` must have one row a frame in {name!r}, got shape {shape}.")
    row = float(np.prod(np.array(shape[1:], dtype=np.float64))) * dataset.dtype.itemsize
    if row > min(_LARGEST_ROW, _MOST_EXPANSION * dataset.file.id.get_filesize()):
        raise InputError(f"`{path}` must be large enough for its frames, one in {name!r} has shape {shape[1:]}.")
    if not _frame_fits(name, shape[1:], attributes):
        raise InputError(f"`{path}` must have frames of its atoms and members, {name!r} has the shape {shape[1:]}.")


def check_column_attributes(path: Path, name: str, attributes: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Refuse a unit or an axis that cannot be read."""
    if not isinstance(attributes.get("unit", ""), str):
        raise InputError(f"`{path}` must have a text as `unit` of {name!r}, got {_shown(attributes['unit'])}.")
    for flag in ("members", "is_histogram"):
        if not isinstance(attributes.get(flag, False), bool | np.bool_ | int | np.integer):
            raise InputError(
                f"`{path}` must have a truth value as `{flag}` of {name!r}, got {_shown(attributes[flag])}."
            )
    period = attributes.get("period", 1.0)
    if not (isinstance(period, int | float | np.number) and 0 < period < np.inf):
        raise InputError(f"`{path}` must have a positive number as `period` of {name!r}, got {_shown(period)}.")
    if "axis" not in attributes:
        return
    try:
        axis = axis_of(attributes)
        fits = axis is not None and np.asarray(attributes["axis"], np.float64).shape == shape[-1:]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"`{path}` must have a readable axis of {name!r}: {error}.") from error
    if not fits:
        raise InputError(f"`{path}` must have an axis of {name!r} as long as its frames, {shape}.")


def check_expansion(path: Path, datasets: Mapping[str, Any], n_frames: int) -> None:
    """Refuse compressed frames that would fill the memory."""
    size = sum(n_frames * float(np.prod(d.shape[1:], dtype=np.float64)) * d.dtype.itemsize for d in datasets.values())
    of_file = path.stat().st_size
    if size > _EXPANSION_FREE + _MOST_EXPANSION * of_file:
        raise InputError(
            f"`{path}` must be about as large as its frames, its {of_file / 1e6:.3g} MB unpack to {size / 1e9:.3g} GB; "
            "no run compresses like that."
        )


def _frame_fits(name: str, shape: tuple[int, ...], attributes: Mapping[str, Any]) -> bool:
    if name.startswith(OBSERVABLES):
        return True
    if name in _NUMBER_A_FRAME:
        return shape == ()
    if name == "energy_members_minus_energy":
        return len(shape) == 1 and shape[0] == attributes.get("n_members", shape[0])
    if name == "cell":
        return shape == (3, 3)
    if name in KINDS:
        n_atoms = len(attributes["numbers"]) if "numbers" in attributes else shape[0]
        return shape == (n_atoms, 3)
    return len(shape) == 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not np.isnan(value)


def _are_elements(value: Any) -> bool:
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        return False
    return bool(((array >= 0) & (array <= _LARGEST_ELEMENT)).all())


def _has_shape(value: Any, shape: tuple[int, ...]) -> bool:
    array = np.asarray(value)
    return array.shape == shape and array.dtype.kind in "biuf" and bool(np.isfinite(array).all())


def _is_plain(value: Any) -> bool:
    array = np.asarray(value)
    return array.dtype.kind in "biufUS" or all(isinstance(each, str) for each in array.ravel())


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) < 60 else f"{text[:60]}..."
