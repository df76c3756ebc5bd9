"""Model files from strangers: one line each, without code run, memory taken, or time lost; and no silent damage."""

import pickle
import re
import time
import zipfile

import numpy as np
import pytest
import torch

from ase_uq import InputError, load, save
from ase_uq.models.members import MemberUncertainty
from ase_uq.potentials import VariationalPotential, make_variational, sample_members
from tests.made.model_files import TINY, good_file, repacked, rewritten
from tests.made.potentials import ensemble, potential, shallow
from tests.made.structures import copper


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return good_file(tmp_path_factory.mktemp("good") / "model.pt")


def refused(path):
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        load(path)
    # Anything that is built of it would take longer.
    assert time.process_time() - start < 5.0
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 1000
    return said


def body(description):
    return description["content"]["potential"]["config"]["potential"]["config"]


def set_in(where, name, value):
    def change(description, state):
        where(description)[name] = value

    return change


def nested(depth):
    return "[" * depth + "]" * depth


def ensemble_config(description):
    return description["content"]["potential"]["config"]


ABSURD = [
    *(
        (body, name, value)
        for name in ("channels", "n_layers", "n_radial", "radial_width")
        for value in (0, -3, 10**9, 2.5)
    ),
    *((body, name, value) for name in ("channels", "n_layers") for value in ("8", None, [8], True, 10**30)),
    (body, "channels", 2048),
    (body, "cutoff", float("nan")),
    (body, "cutoff", 1e9),
    (body, "cutoff", -1.0),
    (body, "cutoff", "far"),
    (body, "l_max", 40),
    (body, "body_order", 1000),
    (body, "seed", 10**40),
    (body, "seed", "zero"),
    (body, "elements", []),
    (body, "elements", ["Cu"] * 100_000),
    (body, "elements", ["Cu", 7]),
    (body, "elements", 5),
    (body, "elements", ["C" * 100_000]),
    (body, "dtype", {"float64": 1}),
    (body, "dtype", "complex128"),
    (body, "unknown", 1),
    (ensemble_config, "n_members", 10**9),
    (ensemble_config, "n_members", 9_999),
    (ensemble_config, "n_members", -1),
    (ensemble_config, "n_members", "many"),
    (ensemble_config, "n_members", float("inf")),
    (ensemble_config, "exact_spread", {"kind": "DeepEnsemble", "config": {"members": []}}),
    (ensemble_config, "potential", "EquivariantPotential"),
    (ensemble_config, "potential", {"kind": "Path", "config": {}}),
    (ensemble_config, "potential", {"kind": ["a"], "config": {}}),
    (ensemble_config, "potential", {"kind": "DeepEnsemble", "config": {"members": 3}}),
    (ensemble_config, "potential", {"kind": "DeepEnsemble", "config": "members"}),
    (lambda d: d["content"], "potential", None),
    (lambda d: d["content"], "potential", []),
    (lambda d: d["content"], "alpha", float("nan")),
    (lambda d: d["content"], "alpha", -1.0),
    (lambda d: d["content"], "alpha", "one"),
    (lambda d: d["content"], "calibration", 7),
    (lambda d: d["content"], "training", "deep"),
    (lambda d: d["content"], "weights", [1, 2]),
    (lambda d: d, "content", 3),
    (lambda d: d, "model", 3),
    (lambda d: d, "versions", None),
    (lambda d: d, "versions", {"ase_uq": 4}),
]


@pytest.mark.parametrize(("where", "name", "value"), ABSURD)
def test_an_absurd_description_with_a_hash_that_fits(good, tmp_path, where, name, value):
    refused(rewritten(good, set_in(where, name, value), tmp_path / "bad.pt"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "3",
        "{",
        nested(100_000),
        '{"model": "MemberUncertainty", "content": {"potential": ' + nested(900) + '}, "versions": {"ase_uq": "0"}}',
        '{"model": "MemberUncertainty", "content": {}, "versions": {"ase_uq": "0"}}',
    ],
)
def test_a_description_that_is_none(good, tmp_path, text):
    refused(rewritten(good, lambda description, state: text, tmp_path / "bad.pt"))


def test_one_description_within_another_without_end(good, tmp_path):
    def change(description, state):
        for _ in range(200):
            inner = description["content"]["potential"]
            description["content"]["potential"] = {"kind": "DeepEnsemble", "config": {"members": [inner]}}

    assert "nested deeper" in refused(rewritten(good, change, tmp_path / "bad.pt"))


@pytest.mark.parametrize("pattern", [r"(.|.)+!", r"(\w+)*x", ".*.*.*.*.*.*x", "a" * 5_000, r"(", 3])
def test_patterns_that_take_for_ever(tmp_path, pattern):
    noisy = VariationalPotential(
        potential(**TINY),
        layers={"node": r"^network\.readouts\.\d+$"},
        prior_dropout=0.5,
        max_dropout=0.9,
        initial_dropout=None,
        inputs="none",
        centred=False,
        law="gaussian",
        seed=0,
    )
    path = good_file(tmp_path / "good.pt", sample_members(noisy, 3, seed=0))
    load(path)
    change = set_in(lambda d: d["content"]["potential"]["config"]["potential"]["config"], "layers", {"node": pattern})
    refused(rewritten(path, change, tmp_path / "bad.pt"))


def weights(change):
    def changed(description, state):
        name = next(name for name, value in state.items() if value.dtype == torch.float64 and value.numel() > 1)
        state[name] = change(state[name])

    return changed


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda w: torch.zeros(1, dtype=w.dtype).expand(10**13), "larger than what is stored"),
        (lambda w: torch.zeros(1, dtype=w.dtype).expand(10**4, 10**4), "larger than what is stored"),
        (lambda w: w.new_full(w.shape, np.nan), "must hold finite weights"),
        (lambda w: w.new_full(w.shape, np.inf), "must hold finite weights"),
        (lambda w: w[:1], "whose architecture differs"),
        (lambda w: w.to_sparse(), "holds more than weights"),
        (lambda w: w.to("meta"), "holds more than weights"),
        (lambda w: [w], "must hold tensors by name"),
    ],
)
def test_weights_that_are_none(good, tmp_path, monkeypatch, change, rule):
    monkeypatch.setattr("tests.made.model_files._hash", lambda *_: "0" * 64)
    path = rewritten(good, weights(change), tmp_path / "bad.pt")
    if "finite" in rule or "architecture" in rule:
        monkeypatch.undo()
        rewritten(good, weights(change), path)
    assert rule in refused(path)


def test_an_archive_that_unpacks_to_more_than_the_file(good, tmp_path):
    bomb = repacked(good, tmp_path / "bomb.pt", compression=zipfile.ZIP_DEFLATED)
    assert "unpacks to more than the file is large" in refused(bomb)
    with zipfile.ZipFile(tmp_path / "large.pt", "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**8)
    assert "unpacks to more" in refused(tmp_path / "large.pt")


def test_a_storage_that_is_shorter_than_said(good, tmp_path):
    cut = repacked(good, tmp_path / "bad.pt", lambda name, data: data[: len(data) // 2] if "/data/" in name else data)
    assert "not as large as what is stored" in refused(cut)


class Harmful:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Harmful(), 2),
        pickle.dumps(bytearray(10), 5),
        b"\x80\x02\x96" + (10**15).to_bytes(8, "little") + b".",  # a bytearray of a petabyte
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # a memo of billions of entries
        b"\x80\x02(" + b"(" * 10**5 + b".",
        b"",
        b"hello",
    ],
)
def test_a_pickle_of_something_else(good, tmp_path, capsys, content):
    bad = repacked(good, tmp_path / "bad.pt", lambda name, data: content if name.endswith("data.pkl") else data)
    assert re.search("could not be read as a model file|must hold exactly the entries", refused(bad))
    assert "code was run" not in capsys.readouterr().out


def test_random_bytes_and_truncation(good, tmp_path):
    rng, whole = np.random.default_rng(0), good.read_bytes()
    path = tmp_path / "bad.pt"
    for data in [rng.bytes(n) for n in (0, 1, 100, 10_000)] + [whole[:n] for n in rng.integers(0, len(whole), 20)]:
        path.write_bytes(data)
        assert "could not be read as a model file" in refused(path)


def test_two_hundred_bit_flips_and_no_silent_difference(good, tmp_path):
    """The archive has bytes that mean nothing; all others are noticed."""
    rng, whole, path = np.random.default_rng(1), good.read_bytes(), tmp_path / "bad.pt"
    expected, same = load(good).predict(copper()).energy_members, 0
    said = []
    for _ in range(200):
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            found = load(path)
        except InputError as e:
            said.append(str(e))
        else:
            same += 1
            np.testing.assert_allclose(found.predict(copper()).energy_members, expected, rtol=1e-12)
    assert same < 150
    assert not [each for each in said if "\n" in each]


@pytest.mark.parametrize(
    "made",
    [
        lambda: ensemble(2, **TINY),
        lambda: shallow(40, **TINY),
        lambda: sample_members(make_variational(potential(**TINY)), 3, seed=0),
    ],
)
def test_what_is_large_for_its_kind_is_read(tmp_path, made):
    save(MemberUncertainty(made()), tmp_path / "model.pt")
    load(tmp_path / "model.pt")
