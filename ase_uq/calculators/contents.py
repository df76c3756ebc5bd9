"""`contents_of`: what an object holds, as plain data that can be written down and compared.

Two functions with the same code and the same numbers in it have the same contents, two arrays with the same values, two
networks with the same weights. Names of files and addresses in memory do not count.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.md.md import MolecularDynamics

OPAQUE = "opaque"
"""Key of what cannot be looked into: two of these may differ, and look the same."""

# Longer arrays go by a hash.
_LONGEST_SHOWN = 64
_DEEPEST = 8
_INSTALLED = ("site-packages", "dist-packages")
_STANDARD = sysconfig.get_paths()["stdlib"]
# Lists that ASE makes of sets, in another order in every process.
_SETS = ("implemented_properties",)
_GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")


def contents_of(value: Any) -> Any:
    """Return what an object holds: numbers, texts, lists and dictionaries of them, as JSON has them.

    Parameters
    ----------
    value
        Anything. Of functions the code, what it closes over and the globals that it reads; of objects the class and the
        attributes, of a dataclass its fields; of `torch` modules the weights; of arrays
        with more than 64 entries a hash. Structures (`Atoms`), which move, go by their elements,
        calculators by their parameters, dynamics by their class.

    Examples
    --------
    >>> def scaled(factor):
    ...     return lambda x: factor * x
    >>> contents_of(scaled(2.0)) == contents_of(scaled(2.0)), contents_of(scaled(2.0)) == contents_of(scaled(3.0))
    (True, False)
    """
    return _contents(value, frozenset(), 0)


def is_opaque(contents: Any) -> bool:
    """Whether something in the contents could not be looked into."""
    if isinstance(contents, Mapping):
        return OPAQUE in contents or any(is_opaque(each) for each in contents.values())
    return isinstance(contents, list) and any(is_opaque(each) for each in contents)


def attributes_of(value: Any) -> dict[str, Any]:
    """Return the attributes of an object by name, whether they are in its dictionary or in slots of its class."""
    found = dict(vars(value)) if hasattr(value, "__dict__") else {}
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            name = f"_{kind.__name__.lstrip('_')}{slot}" if slot.startswith("__") and not slot.endswith("__") else slot
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def is_module(value: Any) -> bool:
    """Whether an object is a network of torch, of whatever package; torch itself need not be there to tell."""
    return hasattr(value, "state_dict") and hasattr(value, "named_parameters")


def _contents(value: Any, above: frozenset[int], depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if id(value) in above or depth > _DEEPEST:
        # Something that holds itself: what it holds is told above.
        return {"within": type(value).__qualname__}
    for told in (_plain, _array, _code):
        found = told(value, above | {id(value)}, depth + 1)
        if found is not None:
            return found
    return _object(value, above | {id(value)}, depth + 1)


def _plain(value: Any, above: frozenset[int], depth: int) -> Any:
    if isinstance(value, bytes | bytearray):
        return {"sha256": hashlib.sha256(value).hexdigest()}
    if isinstance(value, complex):
        return [value.real, value.imag]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _contents(each, above, depth) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_contents(each, above, depth) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((_contents(each, above, depth) for each in value), key=repr)
    if isinstance(value, range | slice):
        return repr(value)
    return None


def _array(value: Any, above: frozenset[int], depth: int) -> Any:
    if isinstance(value, np.generic):
        return _contents(value.item(), above, depth)
    if is_module(value) and not isinstance(value, type):
        return {
            "module": repr(value),
            "weights": _contents(dict(value.state_dict()), above, depth),
            "beside": _contents(_beside_weights(value), above, depth),
        }
    if _is_tensor(value):
        tensor = value.detach().cpu()
        # NumPy does not know all types of torch.
        value = np.asarray(tensor.double() if tensor.is_floating_point() else tensor)
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        return None
    if value.size <= _LONGEST_SHOWN and value.dtype.kind in "biufU":
        return value.tolist()
    digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    return {"sha256": digest, "shape": list(value.shape), "type": str(value.dtype)}


def _beside_weights(module: Any) -> dict[str, Any]:
    """Return what a network holds beside its weights: buffers that are not saved with them, and plain numbers."""
    saved = set(module.state_dict())
    buffers = module.named_buffers() if hasattr(module, "named_buffers") else ()
    found = {name: each for name, each in buffers if name not in saved}
    for path, part in module.named_modules() if hasattr(module, "named_modules") else ():
        for name, each in attributes_of(part).items():
            if not name.startswith("_") and name != "training" and _is_plain(each):
                found[f"{path}.{name}"] = each
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | np.ndarray | np.generic) or _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "cpu") and not is_module(value)


def _code(value: Any, above: frozenset[int], depth: int) -> Any:
    if isinstance(value, functools.partial):
        parts = {"function": value.func, "arguments": value.args, "keywords": value.keywords}
        return {name: _contents(part, above, depth) for name, part in parts.items()}
    if inspect.ismethod(value):
        return {"method": value.__func__.__qualname__, "of": _contents(value.__self__, above, depth)}
    if inspect.isfunction(value):
        return _function(value, above, depth)
    if inspect.ismodule(value) or isinstance(value, np.ufunc):
        return {"name": value.__name__}
    if callable(value) and hasattr(value, "__qualname__"):
        # A class, a builtin, a function of NumPy.
        return {"name": value.__qualname__}
    return None


def _function(function: Any, above: frozenset[int], depth: int) -> dict[str, Any]:
    code = function.__code__
    held = {"defaults": function.__defaults__, "keywords": function.__kwdefaults__}
    held |= dict(zip(code.co_freevars, _cells(function), strict=True))
    told = {"function": function.__qualname__}
    if not _is_of_a_package(function):
        # The same text is other code for another interpreter.
        told["code"] = f"{sys.implementation.cache_tag}:{_hash_of_code(code)}"
        names = sorted(set(_globals_of(code)))
        held |= {name: function.__globals__[name] for name in names if name in function.__globals__}
    return told | {name: _contents(each, above, depth) for name, each in held.items() if each is not None}


def _is_of_a_package(function: Any) -> bool:
    """Whether a function is known by its name: a new release of its package does not make it another one."""
    path = function.__code__.co_filename
    ours = (function.__module__ or "").partition(".")[0] == __name__.partition(".")[0]
    return ours or path.startswith((_STANDARD, "<frozen")) or any(each in path for each in _INSTALLED)


def _cells(function: Any) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield None


def _globals_of(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL:
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals_of(constant)


def _hash_of_code(code: CodeType) -> str:
    constants = [_constant(each) for each in code.co_consts]
    content = repr((code.co_code, constants, code.co_names, code.co_varnames[: code.co_argcount]))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _constant(value: Any) -> str:
    if isinstance(value, CodeType):
        return _hash_of_code(value)
    # The order of a set is another one in every process.
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _object(value: Any, above: frozenset[int], depth: int) -> Any:
    kind = {"class": type(value).__qualname__}
    # What moves, and what moves it, is told by what it is and not by where it stands.
    if isinstance(value, Atoms):
        return {**kind, "elements": str(value.symbols)}
    if isinstance(value, MolecularDynamics):
        return kind
    if isinstance(value, BaseCalculator):
        return {**kind, "parameters": _contents(dict(value.parameters or {}), above, depth)}
    if dataclasses.is_dataclass(value):
        held = {each.name: getattr(value, each.name, None) for each in dataclasses.fields(value)}
    else:
        held = {name: each for name, each in attributes_of(value).items() if "cache" not in name and name not in _SETS}
        if not held and not hasattr(value, "__dict__"):
            return {**kind, OPAQUE: True}
    return {**kind, **{name: _contents(each, above, depth) for name, each in held.items()}}
