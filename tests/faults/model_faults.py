"""Faults of model files: damage, and files of strangers."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from ase_uq import InputError, load
from ase_uq.models.code_cache import CodeCache
from tests.faults.calculator_faults import one_line
from tests.faults.fault import Fault
from tests.made import model_files
from tests.made.model_files import good_file, repacked, rewritten
from tests.made.structures import copper


def refused(path: Path) -> str:
    try:
        load(path)
    except InputError as e:
        return one_line(e)
    raise AssertionError("it was read")


def absurd(name: str, value: Any, *, of_body: bool = True) -> Callable[[Path], str]:
    def change(description: dict[str, Any], _: Any) -> None:
        config = description["content"]["potential"]["config"]
        (config["potential"]["config"] if of_body else config)[name] = value

    return lambda folder: refused(rewritten(good_file(folder / "model.pt"), change, folder / "bad.pt"))


def nested(folder: Path) -> str:
    def change(description: dict[str, Any], _: Any) -> None:
        for _unused in range(200):
            inner = description["content"]["potential"]
            description["content"]["potential"] = {"kind": "DeepEnsemble", "config": {"members": [inner]}}

    return refused(rewritten(good_file(folder / "model.pt"), change, folder / "bad.pt"))


def weights(change: Callable[[Any], Any]) -> Callable[[Path], str]:
    def changed(_: Any, state: dict[str, Any]) -> None:
        name = next(name for name, value in state.items() if value.numel() > 1)
        state[name] = change(state[name])

    def inject(folder: Path) -> str:
        # A hash over terabytes cannot be made; none is needed to see that there are none.
        with patch.object(model_files, "_hash", lambda *_: "0" * 64):
            return refused(rewritten(good_file(folder / "model.pt"), changed, folder / "bad.pt"))

    return inject


class Harmful:
    def __reduce__(self) -> Any:
        return print, ("code was run",)


def code(folder: Path) -> str:
    def change(name: str, data: bytes) -> bytes:
        return pickle.dumps(Harmful(), 2) if name.endswith("data.pkl") else data

    return refused(repacked(good_file(folder / "model.pt"), folder / "bad.pt", change))


def bomb(folder: Path) -> str:
    with zipfile.ZipFile(folder / "bad.pt", "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**8)
    return refused(folder / "bad.pt")


def random_bytes(folder: Path) -> str:
    (folder / "bad.pt").write_bytes(np.random.default_rng(0).bytes(10_000))
    return refused(folder / "bad.pt")


def cut(folder: Path) -> str:
    path = good_file(folder / "model.pt")
    path.write_bytes(path.read_bytes()[:-1000])
    return refused(path)


def flipped(folder: Path) -> str:
    path, rng = good_file(folder / "model.pt"), np.random.default_rng(0)
    whole, expected, told = path.read_bytes(), load(path).predict(copper()).energy_members, 0
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            found = load(path)
        except InputError:
            told += 1
        else:
            np.testing.assert_allclose(found.predict(copper()).energy_members, expected, rtol=1e-12)
    return f"{told} refused, the others without effect, none silently different"


def package(harm: Callable[[Path, Path], None]) -> Callable[[Path], str]:
    def inject(folder: Path) -> str:
        def build(aside: Path) -> Path:
            (aside / "model.pt2").write_bytes(b"own")
            return aside / "model.pt2"

        kept = CodeCache(folder / "cache").path("key", build)
        harm(folder / "cache", kept)
        cache = CodeCache(folder / "cache")
        assert cache.path("key", build).read_bytes() == b"own"
        return "built again"

    return inject


def opened(folder: Path, kept: Path) -> None:
    kept.write_bytes(b"harm")
    folder.chmod(0o777)


FAULTS = [
    Fault(name, "model", inject, expected)
    for name, inject, expected in (
        ("a million million channels", absurd("channels", 10**12), "cannot be built"),
        ("channels that the weights do not have", absurd("channels", 2048), "needs at least .* numbers"),
        ("a negative number of layers", absurd("n_layers", -2), "cannot be built|must be"),
        ("layers in words", absurd("n_layers", "two"), "n_layers|arguments"),
        ("a cutoff of nan", absurd("cutoff", float("nan")), "must be finite"),
        ("a cutoff of a kilometre", absurd("cutoff", 1e13), "at most 100 Å"),
        ("elements without end", absurd("elements", ["Cu"] * 100_000), "cannot be built"),
        ("members without end", absurd("n_members", 10**9, of_body=False), "`n_members` must be"),
        ("a potential that is a text", absurd("potential", "body", of_body=False), "cannot be built"),
        ("200 ensembles within each other", nested, "nested deeper"),
        ("a tensor of terabytes made of one number", weights(lambda w: w.new_zeros(1).expand(10**13)), "larger than"),
        ("a tensor without numbers", weights(lambda w: w.to("meta")), "more than weights"),
        ("a list for a tensor", weights(lambda w: [w]), "tensors by name"),
        ("weights of the same shape and another hash", weights(torch.zeros_like), "does not match its own hash"),
        ("code in the file", code, "more than weights"),
        ("a compressed archive of zeros", bomb, "unpacks to more than the file"),
        ("random bytes", random_bytes, "could not be read"),
        ("a file cut off", cut, "could not be read"),
        ("200 bit flips", flipped, "none silently different"),
        ("machine code planted in an open folder", package(opened), "built again"),
        ("machine code altered", package(lambda _, kept: kept.write_bytes(b"harm")), "built again"),
        ("machine code that others can write", package(lambda _, kept: kept.chmod(0o666)), "built again"),
    )
]
