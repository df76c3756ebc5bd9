"""Signals that ask a command to end: queues and shells send them some seconds before they kill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_POLITE = ("SIGTERM", "SIGHUP")


@contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is done meanwhile like a Ctrl-C, which keeps log and state and says where.

    One that is ignored, as by `nohup`, stays ignored.
    """
    before: dict[Any, Any] = {}
    if threading.current_thread() is threading.main_thread():
        found = [getattr(signal, name) for name in _POLITE if hasattr(signal, name)]
        before = {each: signal.signal(each, _stop) for each in found if signal.getsignal(each) is signal.SIG_DFL}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
