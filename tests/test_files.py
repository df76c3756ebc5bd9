"""Files that are to be written: seen to before the work, and never in place of another unasked."""

import os

import pytest

from ase_uq.errors import InputError
from ase_uq.files import check_output


def test_what_can_be_written_leaves_no_trace(tmp_path):
    check_output(tmp_path / "new name.pt")
    (tmp_path / "old.pt").write_text("old")
    check_output(tmp_path / "old.pt", overwrite=True)
    assert (tmp_path / "old.pt").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["old.pt"]


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "data.xyz").write_text("data")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.pt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, words, options in (
        ("none/model.pt", "the folder of .* does not exist; create", {}),
        ("data.xyz/model.pt", "the folder of .* does not exist", {}),
        ("folder", "must be the name of a file, it is a folder", {"overwrite": True}),
        ("data.xyz", "exists already; .*overwrite=True", {}),
        ("link.pt", "exists already", {}),
        ("pipe", "must be an ordinary file", {"overwrite": True}),
        ("data.xyz", "is also read here, and must stay", {"overwrite": True, "inputs": [tmp_path / "data.xyz"]}),
        ("x" * 300, r"cannot be the name of a file: .*File name too long", {}),
    ):
        with pytest.raises(InputError, match=words):
            check_output(tmp_path / name, **options)
