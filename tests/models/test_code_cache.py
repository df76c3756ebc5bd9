"""Machine code is taken from nobody else."""

import logging
import os

import pytest

from ase_uq.models.code_cache import CodeCache, why_not_safe

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners and modes of files are those of POSIX")


def builder(content=b"code"):
    built = []

    def build(aside):
        built.append(aside)
        (aside / "model.pt2").write_bytes(content)
        return aside / "model.pt2"

    return build, built


def test_a_package_is_built_once(tmp_path):
    build, built = builder()
    path = CodeCache(tmp_path / "cache").path("key-0", build)
    assert path.read_bytes() == b"code"
    assert CodeCache(tmp_path / "cache").path("key-0", build) == path
    assert len(built) == 1
    assert list((tmp_path / "cache").iterdir()) == [path]
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0
    CodeCache(tmp_path / "cache").path("key-1", build)
    assert len(built) == 2


@pytest.mark.parametrize("how", ["altered", "planted", "link", "writable", "name of old"])
def test_what_was_not_built_here_is_built_again(tmp_path, how, caplog):
    build, built = builder()
    cache = CodeCache(tmp_path)
    path = cache.path("key", build)
    if how == "altered":
        path.write_bytes(b"harm")
    elif how == "planted":
        path.unlink()
        (tmp_path / f"key-{'0' * 64}.pt2").write_bytes(b"harm")
    elif how == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    elif how == "writable":
        path.chmod(0o666)
    else:
        path.rename(tmp_path / "key.pt2")
    with caplog.at_level(logging.WARNING):
        again = cache.path("key", build)
    assert again.read_bytes() == b"code"
    assert not again.is_symlink()
    assert len(built) == 2
    assert ("is not what was built here" in caplog.text) == (how != "name of old")


@pytest.mark.parametrize("which", [".", "..", "../.."])
def test_a_folder_that_others_can_write(tmp_path, which, caplog):
    folder = tmp_path / "one" / "two" / "three"
    folder.mkdir(parents=True)
    build, built = builder()
    planted = CodeCache(folder).path("key", build)
    (folder / which).resolve().chmod(0o777)
    assert "others can write to" in why_not_safe(folder)
    cache = CodeCache(folder)
    with caplog.at_level(logging.WARNING):
        found = cache.path("key", build)
        assert cache.path("key", build) == found
    assert len(built) == 2
    assert found.parent != planted.parent
    assert found.parent.stat().st_mode & 0o077 == 0
    assert caplog.text.count("compiled models are not kept: others can write to") == 1


def test_a_shared_folder_on_the_way_where_nobody_can_replace_what_is_ours(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "shared" / "own").mkdir(mode=0o700)
    assert why_not_safe(tmp_path / "shared" / "own") is None
    assert why_not_safe(tmp_path / "shared") is not None


def test_a_folder_of_another_user(tmp_path, monkeypatch):
    build, built = builder()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    if tmp_path.stat().st_uid != 0:
        assert "belongs to another user" in why_not_safe(tmp_path)
    else:
        os.chown(tmp_path, 54321, -1)
        assert f"{tmp_path} belongs to another user" == why_not_safe(tmp_path)
    cache = CodeCache(tmp_path)
    assert cache.path("key", build).parent != tmp_path
    assert len(built) == 1


def test_a_folder_behind_a_link_that_others_can_move(tmp_path):
    (tmp_path / "safe").mkdir()
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(tmp_path / "safe")
    (tmp_path / "open").chmod(0o777)
    assert "open" in why_not_safe(tmp_path / "open" / "link")


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    build, built = builder()
    cache = CodeCache(tmp_path / "file" / "cache")
    assert cache.path("key", build).is_file()
    assert len(built) == 1


def test_a_folder_by_the_name_of_a_package(tmp_path):
    cache = CodeCache(tmp_path / "cache")
    (tmp_path / "cache" / "key-1.pt2").mkdir(parents=True)
    build, _ = builder()
    assert cache.path("key", build).read_bytes() == b"code"


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ase_uq.models.code_cache.tempfile.TemporaryFile", refuse)
    cache = CodeCache(tmp_path / "cache")
    build, _ = builder()
    assert cache.path("key", build).read_bytes() == b"code"
    assert not list((tmp_path / "cache").iterdir())
