import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ase_uq.log.superblock import SIZE, UnclosedFile, lookup3


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", 0xDEADBEEF), (b"Four score and seven years ago", 0x17770551)],  # published with the algorithm
)
def test_hash_of_published_strings(data, expected):
    assert lookup3(data) == expected


def new_file(path, *, swmr=False):
    file = h5py.File(path, "w", libver=("v110", "v110"))
    file["x"] = range(100)
    if swmr:
        file.swmr_mode = True
    file.flush()
    return file


def test_hash_is_the_checksum_of_hdf5(tmp_path):
    with new_file(tmp_path / "a.h5"):
        pass
    head = (tmp_path / "a.h5").read_bytes()[:SIZE]
    assert lookup3(head[:-4]).to_bytes(4, "little") == head[-4:]


@given(data=st.binary(max_size=60), position=st.integers(0, 59), bit=st.integers(0, 7))
def test_hash_notices_a_flipped_bit(data, position, bit):
    changed = bytearray(data.ljust(60, b"."))
    before = lookup3(bytes(changed))
    changed[position] ^= 1 << bit
    assert lookup3(bytes(changed)) != before


def test_a_closed_file_is_shown_as_it_is(tmp_path):
    with new_file(tmp_path / "a.h5"):
        pass
    with UnclosedFile(tmp_path / "a.h5") as stream:
        assert stream.read() == (tmp_path / "a.h5").read_bytes()


def test_a_file_in_use_or_with_a_cut_end_can_be_opened(tmp_path):
    path = tmp_path / "a.h5"
    with new_file(path, swmr=True):
        (tmp_path / "copy.h5").write_bytes(path.read_bytes() + b"appended and then lost"[:5])
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(tmp_path / "copy.h5")
    with UnclosedFile(tmp_path / "copy.h5") as stream, h5py.File(stream, "r") as file:
        assert file["x"][:].tolist() == list(range(100))
    assert (tmp_path / "copy.h5").stat().st_size == len((tmp_path / "copy.h5").read_bytes())


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n\x03", b"x" * 100, b"\x89HDF\r\n\x1a\n\x00" + b"0" * 100])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ValueError, match="has no superblock of version 3"):
        UnclosedFile(tmp_path / "a.h5")
