"""Names of the files that belong to a log: its lock and the state for a restart."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

# File systems in use take 255 bytes; a file under way has something put around its name.
_LONGEST, _KEPT = 220, 40


def beside(path: str | os.PathLike[str], ending: str) -> Path:
    """Return the name of a companion of a file: `ending` added to its name, which is shortened where that is too long.

    Links are followed, so that one file has one companion by whatever name it is called.

    Examples
    --------
    >>> beside("run.h5", ".lock").name
    'run.h5.lock'
    """
    real = Path(os.path.realpath(path))
    name = real.name + ending
    if len(os.fsencode(name)) > _LONGEST:
        digest = hashlib.sha256(os.fsencode(real.name)).hexdigest()[:16]
        name = f"{real.name[:_KEPT]}-{digest}{ending}"
    return real.with_name(name)
