"""`save` and `load`: one file per model.

The file is what `torch.save` makes of a dictionary with exactly these entries:

===========  ==========================================================================
entry        content
===========  ==========================================================================
format       "ase_uq"
version      2; 1 is read, too
description  JSON: architecture, calibration factors and what they were fitted on, training, versions
state        name -> tensor
hash         SHA-256 over the description and the tensors
===========  ==========================================================================

It is read with weights-only loading, which cannot run code, and refused if it holds anything else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ase_uq.errors import InputError
from ase_uq.files import replacing
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials.stored import build, describe, from_old

FORMAT, VERSION = "ase_uq", 2
ENTRIES = {"format", "version", "description", "state", "hash"}


def save(model: MemberUncertainty, path: str | Path) -> None:
    """Write a model to one file; the file appears whole or not at all.

    Raises
    ------
    InputError
        For a model that is not made of our own potentials (a committee of ASE calculators, say).
    """
    if not isinstance(model, MemberUncertainty):
        raise InputError(
            f"`model` must be made of potentials of ase_uq to be saved, got {type(model).__name__}; "
            "keep foreign calculators as a script that builds them."
        )
    potential: Any = model.potential
    description = json.dumps(
        {
            "potential": describe(potential),
            "alpha": model.alpha,
            "alpha_forces": model.alpha_forces,
            "alpha_stress": model.alpha_stress,
            "calibration": model.calibration,
            "training": model.training,
            "versions": {"ase_uq": version("ase-uq"), "torch": torch.__version__},
        },
        sort_keys=True,
    )
    state = {name: value.cpu() for name, value in potential.state_dict().items()}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "description": description,
        "state": state,
        "hash": _hash(description, state),
    }
    with replacing(path) as aside:
        torch.save(content, aside)


def load(path: str | Path, **evaluation: Any) -> MemberUncertainty:
    """Read a model file.

    Parameters
    ----------
    path
        The file.
    **evaluation
        How it is to be evaluated: `device`, `compile`, `memory_limit`, `skin`, as for `MemberUncertainty`.

    Returns
    -------
    MemberUncertainty
        Ready for `UQCalculator`.

    Raises
    ------
    InputError
        For a missing, truncated, altered or foreign file, or one with anything beside the five entries in it.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"`{path}` must be a model file, and there is no such file; check the path.")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as e:
        raise InputError(
            f"`{path}` could not be read as a model file; it is truncated, of another kind, or holds more than weights."
        ) from e
    if not isinstance(content, dict) or set(content) != ENTRIES or content["format"] != FORMAT:
        raise InputError(f"`{path}` must hold exactly the entries of an ase_uq model; save models with ase_uq.save.")
    if content["version"] > VERSION:
        raise InputError(f"`{path}` has format version {content['version']}, ase_uq here reads {VERSION}; upgrade it.")
    if content["hash"] != _hash(content["description"], content["state"]):
        raise InputError(f"`{path}` does not match its own hash; it was altered or damaged, use another copy.")
    description = json.loads(content["description"])
    try:
        old = content["version"] == 1
        made_of = description["potential"]
        potential = from_old(made_of, description["config"]) if old else build(made_of)
        potential.load_state_dict(content["state"])
    except (TypeError, KeyError, RuntimeError) as e:
        written = description["versions"]["ase_uq"]
        raise InputError(
            f"`{path}` was written by ase_uq {written}, whose architecture differs; train it again."
        ) from e
    return MemberUncertainty(
        potential,
        alpha=description["alpha"],
        # Files of earlier versions have one factor for everything.
        alpha_forces=description.get("alpha_forces"),
        alpha_stress=description.get("alpha_stress"),
        calibration=description["calibration"],
        training=description["training"],
        **evaluation,
    )


def _hash(description: str, state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(description.encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
