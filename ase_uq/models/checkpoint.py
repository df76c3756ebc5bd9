"""`save` and `load`: one file per model.

The file is what `torch.save` makes of a dictionary with exactly these entries:

===========  ==========================================================================
entry        content
===========  ==========================================================================
format       "ase_uq"
version      2
description  JSON: the class of the model, what of its `state()` JSON can hold, versions
state        name -> tensor, the rest of its `state()`; those of a dictionary "a" are "a/name"
hash         SHA-256 over the description and the tensors
===========  ==========================================================================

It is read with weights-only loading, which cannot run code, and refused if it holds anything else. What a model needs
to be written and read is in its own `state()` and `from_state()`; `STORABLE` is the whole of what a file may name.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_uq.errors import InputError
from ase_uq.files import replacing
from ase_uq.models.llpr import LLPRUncertainty
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials.stored import describe, from_old
from ase_uq.uncertainty.abilities import StorableModel

FORMAT, VERSION = "ase_uq", 2
ENTRIES = {"format", "version", "description", "state", "hash"}
STORABLE: tuple[type[StorableModel], ...] = (MemberUncertainty, LLPRUncertainty)


def save(model: Any, path: str | Path) -> None:
    """Write a model to one file; the file appears whole or not at all.

    Parameters
    ----------
    model
        A model of one of the classes `STORABLE`.
    path
        The file.

    Raises
    ------
    InputError
        For a model of another class (a committee of ASE calculators, say), or made of foreign potentials.
    """
    kind = type(model)
    # The exact class: a subclass may do anything with the same state.
    if kind not in STORABLE:
        raise InputError(
            f"`model` must be made of potentials of ase_uq to be saved, got {kind.__name__}, which is none of "
            f"{', '.join(each.__name__ for each in STORABLE)}; keep a script that builds it."
        )
    plain, tensors = _parts(model.state(), kind.__name__)
    versions = {"ase_uq": version("ase-uq"), "torch": torch.__version__}
    try:
        description = json.dumps({"model": kind.__name__, "content": plain, "versions": versions}, sort_keys=True)
    except (TypeError, ValueError) as e:
        raise InputError(
            f"`model` must have a state of tensors and of what JSON can hold, that of this {kind.__name__} has more "
            f"({e}); put plain numbers and text in its place."
        ) from e
    content = {
        "format": FORMAT,
        "version": VERSION,
        "description": description,
        "state": tensors,
        "hash": _hash(description, tensors),
    }
    with replacing(path) as aside:
        torch.save(content, aside)


def load(path: str | Path, **evaluation: Any) -> Any:
    """Read a model file.

    Parameters
    ----------
    path
        The file.
    **evaluation
        How it is to be evaluated: `device`, `compile`, `memory_limit`, `skin`, as for `MemberUncertainty`.

    Returns
    -------
    UncertaintyModel
        Of the class that was saved, ready for `UQCalculator`.

    Raises
    ------
    InputError
        For a missing, truncated, altered or foreign file, or one with anything beside the five entries in it; for a
        choice of evaluation that this kind of model does not have.
    """
    path = Path(path)
    content = _read(path)
    description = json.loads(content["description"])
    written = description["versions"]["ase_uq"]
    kinds = {each.__name__: each for each in STORABLE}
    name = description["model"] if content["version"] > 1 else MemberUncertainty.__name__
    if name not in kinds:
        raise InputError(
            f"`{path}` holds a {name!r:.40}, written by ase_uq {written}, which this ase_uq does not know; upgrade it."
        )
    _check_evaluation(kinds[name], evaluation)
    try:
        return kinds[name].from_state(_state(content, description), **evaluation)
    except (TypeError, KeyError, RuntimeError) as e:
        raise InputError(
            f"`{path}` was written by ase_uq {written}, whose architecture differs; train it again."
        ) from e


def _read(path: Path) -> dict[str, Any]:
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
    return content


def _parts(state: Mapping[str, Any], kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Split a state into what JSON can hold and tensors."""
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if "/" in name:
            raise InputError(f"names of a state must have no slash, that of this {kind} has {name!r}; rename it.")
        if isinstance(value, (Tensor, np.ndarray)):
            tensors[name] = _plain(value)
        elif isinstance(value, Mapping) and value and all(isinstance(v, (Tensor, np.ndarray)) for v in value.values()):
            tensors |= {f"{name}/{part}": _plain(each) for part, each in value.items()}
        else:
            plain[name] = value
    return plain, tensors


def _plain(value: Any) -> Tensor:
    return torch.as_tensor(value).detach().cpu()


def _state(content: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    if content["version"] == 1:
        return _old_state(content, description)
    state = dict(description["content"])
    for name, value in content["state"].items():
        whole, _, part = name.partition("/")
        if part:
            state.setdefault(whole, {})[part] = value
        else:
            state[whole] = value
    return state


def _old_state(content: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state of the `MemberUncertainty` that every file of version 1 holds."""
    potential = describe(from_old(description["potential"], description["config"]))
    # Files of earlier versions have one factor for everything.
    factors = {name: description.get(name) for name in ("alpha", "alpha_forces", "alpha_stress")}
    told = {name: description[name] for name in ("calibration", "training")}
    return {"potential": potential, "weights": content["state"], **factors, **told}


def _check_evaluation(kind: type[StorableModel], evaluation: Mapping[str, Any]) -> None:
    taken = inspect.signature(kind.from_state).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        return
    for name in evaluation:
        if name not in taken:
            known = ", ".join(list(taken)[1:]) or "none"
            raise InputError(f"`{name}` must be left out for a {kind.__name__}; its evaluation takes {known}.")


def _hash(description: str, state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(description.encode())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()
