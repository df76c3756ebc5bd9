"""A training that is interrupted, killed, started twice or gone on with as another: nothing is lost, nothing mixed."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ase.io import write

from ase_uq.errors import InputError, Interrupted, RunError
from ase_uq.locks import Lock
from ase_uq.training import Blip, Deep, FitSettings, Shallow, TrainingRun
from ase_uq.training.state_file import read_state, write_state
from tests.made.alloys import SMALL, emt_frames, labelled

SETTINGS = FitSettings(epochs=2, batch_size=4)
FEW = ["--members", 2, "--channels", 4, "--l-max", 1, "--layers", 1, "--cutoff", 3, "--batch-size", 4]


@pytest.fixture(scope="module")
def frames():
    found = labelled(12, 0)
    return found[:8], found[8:]


class Stop(Exception):
    pass


def stopped(frames, folder, error=Stop, **options):
    """Interrupt a training after its first epoch."""

    def stop(part, record):
        raise error

    with pytest.raises((Stop, Interrupted, RunError)) as caught:
        made(frames, folder, on_epoch=stop, **options).complete()
    return str(caught.value)


def made(frames, folder, method=None, **options):
    known = {"settings": SETTINGS, "config": SMALL, "state_dir": folder}
    return TrainingRun(*frames, method or Deep(n_members=2), **{**known, **options})


def energy(frame):
    return replace(frame, energy=frame.energy - 1e6)


# What a resumed training has of its own, and what must be said of it.
OTHERS = {
    "method": ({"method": Blip(n_members=2)}, "`method` must be 'deep' as in the interrupted training, got 'blip'"),
    "head": ({"method": Shallow(n_members=2)}, "`method` must be 'deep' .* got 'shallow'"),
    "members": ({"method": Deep(n_members=3)}, "`n_members` must be 2 as in the interrupted training, got 3"),
    "subsample": ({"method": Deep(2, 0.5)}, "`subsample` must be 1.0 as in the interrupted training, got 0.5"),
    "size": ({"config": {**SMALL, "channels": 4}}, "`channels` must be 8 as in the interrupted training, got 4"),
    "cutoff": ({"config": {**SMALL, "cutoff": 3.0}}, "`cutoff` must be 3.5"),
    "seed": ({"settings": replace(SETTINGS, seed=1)}, "`seed` must be 0 as in the interrupted training, got 1"),
    "weight": ({"settings": replace(SETTINGS, forces_weight=3.0)}, "`forces_weight` must be 1.0 .* got 3.0"),
    "zeros": ({"e0s": {"Cu": 1.0, "Au": 2.0}}, "`e0s` must be left out as in the interrupted training, got"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_training_is_refused_by_name(frames, tmp_path, name):
    stopped(frames, tmp_path / "state")
    options, words = OTHERS[name]
    with pytest.raises(InputError, match=f"{words}.*; set it so, or delete .*state to start again"):
        made(frames, tmp_path / "state", resume=True, **options).complete()
    assert sorted(each.name for each in (tmp_path / "state").iterdir()) == ["member_0.pt", "training.json"]


def test_other_frames_are_refused_by_their_hash(frames, tmp_path):
    train, valid = frames
    stopped(frames, tmp_path / "state")
    for other, words in (
        (([energy(f) for f in train], valid), "the training frames are not those of the interrupted training"),
        ((train[:6], valid), r"the training frames .*\(then 8 to train on and 4 to validate, now 6 and 4"),
        ((train, [energy(f) for f in valid]), "the validation frames are not those"),
        ((train[:1] * 8, valid[:1]), "the training and validation frames are not those"),
        ((train[1:], [*valid, train[0]]), "the frames are split into 7 to train on and 5 to validate in another way"),
        (([replace(train[0], weights=(2.0, 1.0, 1.0)), *train[1:]], valid), "the training frames are not those"),
    ):
        with pytest.raises(InputError, match=words):
            made(other, tmp_path / "state", resume=True).complete()


def test_what_changes_nothing_may_change(frames, tmp_path):
    stopped(frames, tmp_path / "state")
    # Defaults spelled out, more epochs, another number of processes.
    options = {"config": {**SMALL, "body_order": 4}, "settings": replace(SETTINGS, epochs=3)}
    made(frames, tmp_path / "state", Deep(2, jobs=2), resume=True, **options)
    resumed = made(frames, tmp_path / "state", Deep(2), resume=True, **options).complete()
    assert resumed.training["parts"][0]["epochs"] == 3
    assert not (tmp_path / "state").exists()


def test_states_are_not_begun_over_unasked(frames, tmp_path):
    stopped(frames, tmp_path / "state")
    with pytest.raises(InputError, match="an earlier training was interrupted, .*resume=True"):
        made(frames, tmp_path / "state").complete()
    (tmp_path / "state" / "training.json").unlink()
    with pytest.raises(InputError, match="do not say what they are of"):
        made(frames, tmp_path / "state", resume=True).complete()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must be a folder"):
        made(frames, tmp_path / "file").complete()


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"\0" * len(b), lambda b: b[::-1]]
)
@pytest.mark.parametrize("name", ["member_0.pt", "training.json"])
def test_damaged_states_are_said_in_one_sentence(frames, tmp_path, name, damage):
    stopped(frames, tmp_path / "state")
    path = tmp_path / "state" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=f"{name}` could not be read.*; delete") as refused:
        made(frames, tmp_path / "state", resume=True).complete()
    assert "\n" not in str(refused.value)


def test_every_flipped_bit_of_a_state_is_noticed(tmp_path):
    path = tmp_path / "s.pt"
    write_state(path, {"weights": torch.arange(50.0), "epoch": 3})
    whole = path.read_bytes()
    assert read_state(path)["epoch"] == 3
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(InputError, match="could not be read"):
            read_state(path)


def test_a_second_training_is_refused_while_the_first_is_under_way(frames, tmp_path):
    seen = []

    def second(part, record):
        with pytest.raises(InputError, match=f"is under way in process {os.getpid()} on .*wait for it"):
            made(frames, tmp_path / "state", resume=True).complete()
        seen.append(record.epoch)

    made(frames, tmp_path / "state", on_epoch=second).complete()
    assert seen
    # One that died without a word has left its lock.
    stopped(frames, tmp_path / "state")
    lock = Lock(tmp_path / "state" / "lock", "it")
    lock.__enter__()
    owner = json.loads(lock.path.read_text())
    lock.path.write_text(json.dumps({**owner, "started": "another"}))
    made(frames, tmp_path / "state", resume=True).complete()
    assert not (tmp_path / "state").exists()


def test_interrupts_say_what_is_kept(frames, tmp_path):
    said = stopped(frames, tmp_path / "state", error=KeyboardInterrupt)
    assert said == f"interrupted; what was trained is kept in {tmp_path / 'state'}: go on with resume=True."
    resumed = made(frames, tmp_path / "state", resume=True).complete()
    assert resumed.model_hash == made(frames, None).complete().model_hash

    def terminate(part, record):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(Interrupted, match="what was trained is kept"):
        made(frames, tmp_path / "state", on_epoch=terminate).complete()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_before_the_first_epoch_nothing_is_left_behind(frames, tmp_path, monkeypatch):
    def interrupt(run):
        raise KeyboardInterrupt

    monkeypatch.setattr(Deep, "train", lambda self, run: interrupt(run))
    with pytest.raises(Interrupted, match="no epoch was finished, and nothing is kept: start again"):
        made(frames, tmp_path / "state").complete()
    assert not (tmp_path / "state").exists()


def test_a_full_disk_keeps_the_last_state(frames, tmp_path, monkeypatch):
    stopped(frames, tmp_path / "state")
    before = (tmp_path / "state" / "member_0.pt").read_bytes()

    def full(self, *arguments, **options):
        if ".part" in self.name and "member" in self.name:
            raise OSError(28, "No space left on device")
        return opened(self, *arguments, **options)

    opened = Path.open
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match=r"could not be written \(No space left on device\); the last .*resume=True"):
        made(frames, tmp_path / "state", resume=True).complete()
    monkeypatch.undo()
    assert (tmp_path / "state" / "member_0.pt").read_bytes() == before


# --- processes ------------------------------------------------------------------------------------------------------


def started(folder, *options):
    command = [sys.executable, "-m", "ase_uq", "train", "train.xyz", *map(str, FEW), "--epochs", "100000", *options]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def in_session(session):
    found = []
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = each.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(each.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_processes_end_with_their_parent_and_the_training_goes_on(tmp_path):
    write(tmp_path / "train.xyz", emt_frames(12))
    states = [tmp_path / "m.pt.training" / f"member_{m}.pt" for m in range(2)]
    first = started(tmp_path, "--jobs", "2", "--out", "m.pt")
    wait_for(lambda: all(state.exists() for state in states))
    assert len(in_session(first.pid)) >= 3
    second = started(tmp_path, "--jobs", "2", "--out", "m.pt", "--resume")
    assert f"is under way in process {first.pid} on" in second.communicate(timeout=120)[1]
    assert second.returncode == 2
    first.kill()
    first.wait()
    first.stderr.close()
    wait_for(lambda: not in_session(first.pid), 30.0)
    for number, way in ((signal.SIGINT, "killpg"), (signal.SIGTERM, "kill")):
        third = started(tmp_path, "--jobs", "2", "--out", "m.pt", "--resume")
        epochs = [state.stat().st_mtime_ns for state in states]
        wait_for(lambda epochs=epochs: all(s.stat().st_mtime_ns > e for s, e in zip(states, epochs, strict=True)))
        getattr(os, way)(third.pid, number)
        said = third.communicate(timeout=60)[1]
        assert third.returncode == 130, said
        assert "Traceback" not in said
        assert (
            said.strip().splitlines()[-1].startswith("ase-uq: interrupted; what was trained is kept in m.pt.training")
        )
        wait_for(lambda third=third: not in_session(third.pid), 30.0)


@pytest.mark.slow
def test_a_process_that_is_killed_is_told(tmp_path):
    write(tmp_path / "train.xyz", emt_frames(12))
    run = started(tmp_path, "--jobs", "2", "--out", "m.pt")
    wait_for((tmp_path / "m.pt.training" / "member_0.pt").exists)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    spawned = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(spawned[0]), signal.SIGKILL)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 1
    assert "a process of the training was killed by signal 9" in said.splitlines()[-1]
    assert "go on with --resume" in said.splitlines()[-1]


@pytest.mark.parametrize("how", ["another training", "another member", "another name"])
def test_states_of_another_training_are_not_mixed_in(frames, tmp_path, how):
    stopped(frames, tmp_path / "state")
    state = tmp_path / "state" / "member_0.pt"
    if how == "another training":
        train, valid = frames
        other = [replace(train[0], energy=train[0].energy + 1e-6), *train[1:]]
        stopped((other, valid), tmp_path / "other")
        state.write_bytes((tmp_path / "other" / "member_0.pt").read_bytes())
    else:
        name = "member_1.pt" if how == "another member" else "mean.pt"
        state.rename(state.with_name(name))
        state = state.with_name(name)
        with pytest.raises(InputError, match="of another training, or of another part"):
            read_state(state)
        return
    with pytest.raises(InputError, match="of another training, or of another part"):
        made(frames, tmp_path / "state", resume=True).complete()
