"""What a model file says it holds, found out before anything of it is made.

A file from a stranger may be small and ask for terabytes: a tensor of one number repeated without end, an archive that
unpacks to more than a disk, a list within a list within a list. So the archive is looked at, and the pickle in it is
read with stand-ins for tensors, before torch reads it. What passes needs about as much memory as the file is large.

========================  ==============================================================================================
looked at                 rule
========================  ==============================================================================================
archive                   nothing compressed, no name twice, together no larger than the file
pickle                    dictionaries, numbers, texts and tensors, by the few names that `torch.save` uses
tensors                   as large as what is stored of them, and stored where they say
========================  ==============================================================================================
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# More than any description needs; a pickle has no tensors in it.
_MOST_BYTES = 64 * 1024**2
_MOST_ENTRIES = 100_000
_DEEPEST = 64  # of values within values

_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
# Those that `torch.save` writes for dictionaries, numbers, texts and tensors.
_OPCODES = (
    "PROTO STOP MARK GLOBAL REDUCE BINPERSID EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM "
    "SETITEMS APPEND APPENDS NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING "
    "BINGET LONG_BINGET BINPUT LONG_BINPUT BUILD"
)


class HostileFileError(Exception):
    """A file breaks a rule of the table; the text says which."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """Stands for a class of storages."""

    itemsize: int


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    itemsize: int
    numel: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Stands for a tensor: where it lies in its storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Numbers in it."""
        return math.prod(self.size)


def inspect(path: Path) -> Any:
    """Return what a file holds, with stand-ins for its tensors.

    Raises
    ------
    HostileFileError
        See the table of the module.
    """
    with zipfile.ZipFile(path) as archive:
        sizes = _sizes(archive, path.stat().st_size)
        (name,) = [name for name in sizes if name.endswith("/data.pkl")] or [""]
        if not name or sizes[name] > _MOST_BYTES:
            raise HostileFileError("its archive has no description, or one that is too large")
        content = archive.read(name)
    folder = name.removesuffix("data.pkl") + "data/"
    for opcode, _, _ in pickletools.genops(content):
        if opcode.name not in _OPCODES.split():
            raise HostileFileError("it holds more than weights")
    found = _StandIns(io.BytesIO(content)).load()
    _check(found, {key.removeprefix(folder): size for key, size in sizes.items() if key.startswith(folder)})
    return found


def _sizes(archive: zipfile.ZipFile, on_disk: int) -> dict[str, int]:
    entries = archive.infolist()
    sizes = {entry.filename: entry.file_size for entry in entries}
    if len(entries) > _MOST_ENTRIES or len(sizes) < len(entries):
        raise HostileFileError("its archive has too many entries, or one of them twice")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(sizes.values()) > on_disk:
        raise HostileFileError("its archive unpacks to more than the file is large")
    return sizes


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Stored:
    whole = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or len(size) != len(stride) or not all(type(n) is int for n in whole):
        raise HostileFileError("a tensor in it is described wrongly")
    return Stored(storage, offset, tuple(size), tuple(stride))


class _StandIns(pickle._Unpickler):
    """The unpickler in Python: that in C sets memory aside for whatever it is told to."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _BYTES:
            return _Kind(_BYTES[name])
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("collections", "OrderedDict"): _Dictionary,
        }
        if (module, name) not in known:
            raise HostileFileError("it holds more than weights")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], _Kind):
            raise HostileFileError("a tensor in it is described wrongly")
        key, numel = pid[2], pid[4]
        if type(numel) is not int or numel < 0:
            raise HostileFileError("a tensor in it is described wrongly")
        return _Storage(str(key), pid[1].itemsize, numel)


class _Dictionary(dict[Any, Any]):
    """An `OrderedDict`, whose attributes nobody needs."""

    def __init__(self, items: Any = ()) -> None:
        super().__init__(items)

    def __setstate__(self, state: Any) -> None:
        """Leave out what `state_dict` notes about versions."""


def _check(value: Any, stored: dict[str, int], depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise HostileFileError("values in it are nested too deeply")
    if isinstance(value, Stored):
        _check_tensor(value, stored)
    elif isinstance(value, dict):
        for each in value.values():
            _check(each, stored, depth + 1)
    elif isinstance(value, (list, tuple)):
        for each in value:
            _check(each, stored, depth + 1)


def _check_tensor(tensor: Stored, stored: dict[str, int]) -> None:
    storage = tensor.storage
    if storage.numel * storage.itemsize != stored.get(storage.key, -1):
        raise HostileFileError("a tensor in it is not as large as what is stored of it")
    if min((tensor.offset, *tensor.size, *tensor.stride)) < 0:
        raise HostileFileError("a tensor in it is described wrongly")
    last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride, strict=True))
    if tensor.numel > storage.numel or (tensor.numel and last >= storage.numel):
        raise HostileFileError("a tensor in it is larger than what is stored of it")
