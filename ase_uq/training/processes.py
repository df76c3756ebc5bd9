"""`in_processes`: tasks in processes of their own, which end with the process that started them, however it ends."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from ase_uq.errors import RunError

Work = Callable[[Any, Callable[..., None]], Any]
"""Called with a task and with what sends a note to the parent; returns the result."""


def in_processes(work: Work, tasks: Sequence[Any], *, at_a_time: int, on_note: Callable[..., None]) -> list[Any]:
    """Do tasks in new processes, and return the results in their order.

    Parameters
    ----------
    work
        A function of a module, see `Work`.
    tasks
        What it is called with; pickled.
    at_a_time
        How many processes run at a time; they share torch's threads.
    on_note
        Called here with what the tasks note.

    Raises
    ------
    RunError
        If a process ends without a result; what a task raises is raised here.
    """
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // at_a_time)
    waiting, results = list(enumerate(tasks))[::-1], dict[int, Any]()
    running: dict[Connection, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_a_time:
                index, task = waiting.pop()
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(there, work, task, threads), daemon=True)
                process.start()
                there.close()
                running[here] = (index, process)
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                index, process = running[connection]
                kind, content = _received(connection, process)
                if kind == "note":
                    on_note(*content)
                    continue
                if kind == "failed":
                    raise content
                results[index] = content
                process.join()
                del running[connection]
                connection.close()
    finally:
        for connection, (_, process) in running.items():
            process.kill()
            process.join()
            connection.close()
    return [results[index] for index in range(len(tasks))]


def _received(connection: Connection, process: Any) -> tuple[str, Any]:
    try:
        kind, content = connection.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        how = f"was killed by signal {-code}, for want of memory perhaps" if code < 0 else f"ended with code {code}"
        raise RunError(
            f"a process of the training {how}; what was trained is kept: go on with resume=True, and a smaller `jobs`."
        ) from None
    return kind, content


def _child(connection: Connection, work: Work, task: Any, threads: int) -> None:
    # The parent is asked to end, and ends its children.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        connection.send(("done", work(task, lambda *note: connection.send(("note", note)))))
    except Exception as e:
        with contextlib.suppress(OSError):
            _send_failure(connection, e)


def _send_failure(connection: Connection, error: Exception) -> None:
    try:
        connection.send(("failed", error))
    except (TypeError, AttributeError, ValueError):  # it cannot be pickled
        connection.send(("failed", RunError(f"{type(error).__name__}: {error}")))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
