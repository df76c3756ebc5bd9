"""Checksums of a log, and what is told when they do not match."""

import zlib

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ase_uq.averages.runs import of_run
from ase_uq.errors import InputError
from ase_uq.log.checksums import CHECKSUM, crc32_of_rows
from ase_uq.log.logger import UncertaintyLogger
from ase_uq.log.reader import read_log
from ase_uq.log.staged import StagedFile
from tests.made.logged_runs import distance, oscillator, record


@given(n=st.sampled_from([1, 5, 64, 200]), width=st.integers(0, 20), kind=st.sampled_from(["f8", "f4", "i8"]))
def test_rows_have_the_sum_of_their_bytes(n, width, kind):
    values = np.random.default_rng(n + width).integers(0, 2**31, (n, width)).astype(kind)
    assert crc32_of_rows(values).tolist() == [zlib.crc32(row.tobytes()) for row in values]


def test_numbers_have_the_sum_of_their_bytes():
    values = np.random.default_rng(0).normal(size=300)
    assert crc32_of_rows(values).tolist() == [zlib.crc32(value.tobytes()) for value in values]


@pytest.fixture
def log(tmp_path):
    atoms, dyn = oscillator()
    record(tmp_path / "run.h5", atoms, dyn, 120, observables={"d": distance}, store=("positions",))
    return tmp_path / "run.h5"


def place_of(path, name, frame):
    with h5py.File(path) as file:
        dataset = file[name]
        chunk = dataset.id.get_chunk_info(frame // dataset.chunks[0])
        row = dataset.dtype.itemsize * int(np.prod(dataset.shape[1:]))
        return chunk.byte_offset + (frame % dataset.chunks[0]) * row


def flip(path, name, frame):
    place, content = place_of(path, name, frame), bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


def test_the_mark_of_an_explosion_is_written_in_place(tmp_path):
    path, (atoms, dyn) = tmp_path / "run.h5", oscillator()
    with UncertaintyLogger(path, atoms, dyn=dyn, temperature_K=300.0) as log:
        dyn.attach(log)
        dyn.run(50)
        log.flush()
        before = path.read_bytes()
        assert read_log(path).attributes["exploded"] == ""
        log.mark_exploded("at step 50 it is 3 Å apart")
        after = path.read_bytes()
        assert len(after) == len(before)
        # Also while the run goes on.
        assert read_log(path).attributes["exploded"] == "at step 50 it is 3 Å apart"
        log.mark_exploded("Å" * 500)
        dyn.run(50)
    marked = read_log(path)
    assert marked.damage == ()
    assert marked.n_frames == 101
    assert marked.attributes["exploded"] == "Å" * 120
    with h5py.File(path) as file:
        assert set(file.attrs["exploded"].decode()) == {"Å"}
    place = path.read_bytes().index("ÅÅ".encode())
    content = bytearray(path.read_bytes())
    content[place + 1] ^= 1
    path.write_bytes(content)
    # HDF5 itself has a checksum over this part of the file.
    with pytest.raises(InputError, match="header is damaged"):
        read_log(path)


def test_every_dataset_has_the_checksum_of_hdf5_and_one_for_each_frame(log):
    with h5py.File(log) as file:
        names = [*(name for name in file if name != "observables"), "observables/d"]
        assert all(file[name].fletcher32 for name in names)
        columns = list(file[CHECKSUM].attrs["columns"])
        assert set(columns) == set(names) - {CHECKSUM}
        for index, name in enumerate(columns):
            sums = [zlib.crc32(row.tobytes()) for row in file[name][:]]
            assert file[CHECKSUM][:, index].tolist() == sums


@pytest.mark.parametrize("name", ["energy", "energy_members_minus_energy", "step", "observables/d"])
def test_one_damaged_number_costs_one_frame_and_is_told(log, caplog, name):
    whole = read_log(log)
    flip(log, name, 57)
    found = read_log(log)
    shown = name.removeprefix("observables/")
    assert found.damage == (f"frames 57 of 121 are damaged in `{shown}`",)
    assert found.damage[0] in caplog.text
    np.testing.assert_array_equal(found.energy, np.delete(whole.energy, 57))
    np.testing.assert_array_equal(found.positions, np.delete(whole.positions, 57, axis=0))


def test_damage_of_positions_costs_nothing_where_they_are_not_read(log):
    flip(log, "positions", 3)
    assert read_log(log).n_frames == 120
    assert read_log(log, per_atom=False).n_frames == 121


def test_averages_say_it(log):
    flip(log, "energy", 57)
    result = of_run(log)["d"]
    assert any("damaged: frames 57 of 121" in each for each in result.warnings)


def test_a_damaged_checksum_is_no_damage_of_the_frame(log):
    flip(log, CHECKSUM, 57)
    found = read_log(log)
    assert (found.n_frames, found.damage) == (121, ())


def test_what_is_staged_can_be_read_back_and_is_not_on_the_disk(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"0123456789")
    with path.open("r+b", buffering=0) as disk:
        staged = StagedFile(disk)
        staged.seek(8)
        staged.write(b"abcd")
        staged.seek(2)
        staged.write(b"XY")
        staged.seek(0)
        assert staged.read() == b"01XY4567abcd"
        assert path.read_bytes() == b"0123456789"
        staged.commit()
        assert path.read_bytes() == b"01XY4567abcd"
        staged.seek(0)
        staged.write(b"gone")
        staged.abandon()
        assert path.read_bytes() == b"01XY4567abcd"
