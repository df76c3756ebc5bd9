"""Frames get to the disk, or to where they are kept when the log is no longer this run's.

A lock keeps other writers of this package away; it cannot keep a shell from writing over the file in place, nor a
process from being forked with the file open. The first is noticed before the next frames are written, which then go to
a file of their own with all that is left of the log: what the other program has written is not touched. A forked child
writes nothing, it is its parent's log.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ase_uq.errors import InputError, RunError
from ase_uq.log.owned import LogTakenError, OwnedLog, free_name
from ase_uq.log.reader import open_log
from ase_uq.log.stored import DAMAGE
from ase_uq.log.writer import FrameWriter

logger = logging.getLogger(__name__)


def put_on_disk(writer: FrameWriter, own: OwnedLog) -> None:
    """Write the frames in memory.

    Raises
    ------
    InputError
        In a forked process.
    LogTakenError
        For a log that was deleted, replaced or overwritten; it names the file that holds the frames now.
    """
    own.check_process()
    if writer.closed:
        return
    if not writer.untouched:
        kept, n_left = _rescued(writer, own.place)
        held = writer.n_frames + len(writer.pending)
        writer.discard()
        raise LogTakenError(
            f"{own.path} was overwritten by another program while the run wrote it, so the run has stopped; of its "
            f"{held} frames {n_left} could be kept, they are in {kept}; go on with that log by append=True.",
            kept,
        )
    writer.flush()
    own.check_there(writer.descriptor)


def finish(writer: FrameWriter, own: OwnedLog) -> None:
    """Write and close; errors as for `put_on_disk`."""
    if writer.closed:
        return
    try:
        put_on_disk(writer, own)
    except RunError as error:
        if isinstance(error, LogTakenError):
            writer.close()
        raise
    writer.close()


def finish_at_exit(writer: FrameWriter, own: OwnedLog) -> None:
    """Nobody is left who could catch an error; a forked child leaves all to its parent."""
    if not own.of_this_process:
        return
    try:
        finish(writer, own)
    except (InputError, RunError) as error:
        logger.error("%s", error)


def _rescued(writer: FrameWriter, path: Path) -> tuple[Path, int]:
    """Put what is left of an overwritten log, and the frames in memory, into a new file; return it, and how many."""
    kept = free_name(path)
    new = FrameWriter(kept, list(writer.columns.values()), writer.attributes, flush_every=writer.flush_every)
    try:
        _copy_what_is_left(new, writer, path)
        if writer.pending:
            new.extend({name: np.stack([frame[name] for frame in writer.pending]) for name in writer.columns})
        new.publish()
        return kept, new.n_frames
    finally:
        new.close()


def _copy_what_is_left(new: FrameWriter, writer: FrameWriter, path: Path) -> None:
    """Copy the frames of this run that can still be read."""
    last = int(writer.pending[0]["step"]) - 1 if writer.pending else writer.last_step
    with suppress(InputError, *DAMAGE), open_log(path, stored=True) as log:
        of_this_run: Any = log.attributes.get("run_id"), writer.attributes.get("run_id")
        if of_this_run[0] == of_this_run[1] and last is not None and set(log.datasets) == set(writer.columns):
            steps = log.datasets["step"][: log.n_frames]
            new.copy(log.datasets, int(np.searchsorted(steps, last, side="right")))
