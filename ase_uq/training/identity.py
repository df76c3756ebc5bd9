"""What makes a training this one and no other: compared before an interrupted one goes on.

Its length (`epochs`, `minutes`, `stop_after`) and whatever changes no number (`jobs`) may change; the frames, by hash,
the method, the architecture and all other settings may not, or members of two trainings would end in one model.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase_uq.errors import InputError
from ase_uq.options import options_of
from ase_uq.potentials.architectures import ARCHITECTURES
from ase_uq.structures.fingerprint import frames_hash

if TYPE_CHECKING:
    from ase_uq.training.run import TrainingRun

FREE = ("epochs", "minutes", "stop_after")
_VERSION = 1


def identity_of(run: TrainingRun) -> dict[str, Any]:
    """Return what must be the same on resuming, as JSON can hold it."""
    method = {name: getattr(run.method, name) for name, known in options_of(type(run.method)).items() if known.recorded}
    settings = {name: value for name, value in asdict(run.settings).items() if name not in FREE}
    config = _full_config(run) if run.start is None else {}
    found = {
        "version": _VERSION,
        "method": run.method.name,
        "start": None if run.start is None else _weights_hash(run.start),
        "architecture": run.architecture if run.start is None else None,
        "options": {**config, **method, **settings, "e0s": None if run.e0s is None else dict(run.e0s)},
        "frames": {
            "n_train": len(run.train),
            "n_valid": len(run.valid),
            "train": frames_hash(run.train),
            "valid": frames_hash(run.valid),
            "together": frames_hash([*run.train, *run.valid], ordered=False),
        },
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def check_identity(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with another training.

    Raises
    ------
    InputError
        With the name of the first thing that differs.
    """
    for name, was, value in _differences(before, now):
        raise InputError(
            f"`{name}` must be {was} as in the interrupted training, got {value}; set it so, or delete {folder} to "
            "start again."
        )
    was, value = before["frames"], now["frames"]
    if was == value:
        return
    again = f"or delete {folder} to start again"
    if was["together"] == value["together"]:
        raise InputError(
            f"the frames are split into {value['n_train']} to train on and {value['n_valid']} to validate in another "
            f"way than in the interrupted training ({was['n_train']} and {was['n_valid']}); give the same validation "
            f"frames, `valid_fraction` and `seed`, {again}."
        )
    which = " and ".join(
        words for name, words in (("train", "training"), ("valid", "validation")) if was[name] != value[name]
    )
    raise InputError(
        f"the {which} frames are not those of the interrupted training (then {was['n_train']} to train on and "
        f"{was['n_valid']} to validate, now {value['n_train']} and {value['n_valid']}; structures, labels or their "
        f"weights differ); give the same frames, {again}."
    )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in ("method", "architecture"):
        if before[name] != now[name]:
            yield name, _said(before[name]), _said(now[name])
    if before["start"] != now["start"]:
        yield "start", _model(before["start"]), _model(now["start"])
    for name in sorted({*before["options"], *now["options"]}):
        was, value = before["options"].get(name), now["options"].get(name)
        if was != value:
            yield name, _said(was), _said(value)


def _model(weights_hash: str | None) -> str:
    return "left out" if weights_hash is None else f"the model of hash {weights_hash[:8]}"


def _said(value: Any) -> str:
    return "left out" if value is None else repr(value)


def _full_config(run: TrainingRun) -> dict[str, Any]:
    """The arguments of the architecture with its defaults, so that one that is spelled out is no other."""
    parameters = inspect.signature(ARCHITECTURES[run.architecture]).parameters
    usual = {
        name: each.default
        for name, each in parameters.items()
        if name not in ("elements", "seed") and each.default is not inspect.Parameter.empty
    }
    return {**usual, **run.config}


def _weights_hash(start: Any) -> str:
    digest = hashlib.sha256(type(start).__name__.encode())
    for name, value in sorted(start.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
