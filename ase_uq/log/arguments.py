"""What a logger refuses of its arguments."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ase_uq.errors import InputError
from ase_uq.log.columns import KINDS, PER_ATOM
from ase_uq.log.ensembles import ENSEMBLES


def check_arguments(ensemble: Any, store: Collection[str], start_step: Any, flush_every: int) -> None:
    """Refuse what no run can be logged with; arguments as those of the logger.

    Raises
    ------
    InputError
        With the argument and its rule.
    """
    unknown = sorted(set(store) - set(PER_ATOM))
    if ensemble not in ENSEMBLES:
        raise InputError(f"`ensemble` must be one of {', '.join(ENSEMBLES)}, got {ensemble!r}; name what is sampled.")
    if unknown:
        raise InputError(f"`store` must name any of {', '.join(PER_ATOM)}, got {unknown[0]!r}; correct the name.")
    if start_step is not None and not isinstance(start_step, int | np.integer):
        raise InputError(f"`start_step` must be a whole number, got {start_step!r}; count steps from 0.")
    if flush_every < 1:
        raise InputError(f"`flush_every` must be at least 1 frame, got {flush_every}; 100 suits most runs.")


def check_path(path: Path, *, append: bool, overwrite: bool) -> None:
    """Refuse a name that is taken, or one in no folder.

    Raises
    ------
    InputError
        Also for `append` and `overwrite` together.
    """
    if append and overwrite:
        raise InputError("`append` and `overwrite` exclude each other, got both; choose one.")
    if not path.parent.is_dir():
        raise InputError(f"`path` must lie in an existing folder, there is no {path.parent}; create it first.")
    if path.exists() and not (append or overwrite):
        raise InputError(f"`path` must not exist yet, {path} does; pass append=True to continue it or overwrite=True.")


def check_names(names: Collection[str]) -> None:
    """Refuse names of observables that a log cannot have.

    Raises
    ------
    InputError
        With the name.
    """
    for name in names:
        if not isinstance(name, str) or not name or "/" in name or "\0" in name or name == "." or name in KINDS:
            raise InputError(
                f"`observables` must not use the name {name!r}, which is taken or no name of a dataset; choose another."
            )
