"""Locks: one owner at a time, those of dead processes taken over, those of other machines respected."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import pytest

from ase_uq.errors import InputError
from ase_uq.locks import Lock, Owner, check_free, owner_of


def write(path, owner):
    path.write_text(json.dumps(asdict(owner)))


def dead():
    """A process that is gone: a zombie until it is waited for."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return process.pid


def test_a_second_owner_is_refused_until_the_first_is_done(tmp_path):
    path = tmp_path / "lock"
    with Lock(path, "the work"):
        assert owner_of(path).alive is True
        with pytest.raises(InputError, match=f"the work is under way in process {os.getpid()} on .*, since"):
            Lock(path, "the work").__enter__()
        assert path.exists()
    assert list(tmp_path.iterdir()) == []
    with Lock(path, "the work"):
        pass


def test_locks_of_dead_processes_are_taken_over(tmp_path):
    path, own = tmp_path / "lock", Owner.this()
    gone = (
        replace(own, pid=dead()),
        replace(own, started="another"),  # its number was given to a new process
        replace(own, boot=f"other {own.boot.partition(' ')[2]}"),
    )
    for owner in gone:
        write(path, owner)
        assert owner.alive is False
        check_free(path, "the work")
        with Lock(path, "the work"):
            assert owner_of(path).pid == os.getpid()
        assert not path.exists()


def test_a_process_that_nobody_has_waited_for_is_dead(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        from ase_uq.locks import _started

        owner = replace(Owner.this(), pid=process.pid, started=_started(process.pid))
        assert owner.alive is True
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert owner.alive is False
    finally:
        process.stdin.close()
        process.wait()


def test_locks_of_other_machines_are_respected(tmp_path):
    path, own = tmp_path / "lock", Owner.this()
    for owner in (replace(own, host="node17"), replace(own, boot=f"{own.boot}0")):
        write(path, owner)
        assert owner.alive is None
        with pytest.raises(InputError, match="if it is no longer there, delete `.*lock`"):
            Lock(path, "the work").__enter__()
        assert owner_of(path) == owner


def test_a_lock_that_is_none_is_said(tmp_path):
    for content in ("", "{}", "[1]", '{"pid": 1}'):
        (tmp_path / "lock").write_text(content)
        with pytest.raises(InputError, match="could not be read; delete it if no process is at work there"):
            Lock(tmp_path / "lock", "the work").__enter__()


def test_of_many_at_once_one_wins(tmp_path):
    write(tmp_path / "lock", replace(Owner.this(), pid=dead()))
    ready, won, lost = threading.Barrier(8), [], []
    done = threading.Event()

    def work():
        ready.wait()
        try:
            with Lock(tmp_path / "lock", "the work"):
                won.append(1)
                done.wait(10)
        except InputError:
            lost.append(1)
        if len(lost) == 7:
            done.set()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)
