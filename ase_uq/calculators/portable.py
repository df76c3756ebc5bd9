"""`Portable`: a foreign calculator on its way through a pickle.

Some calculators keep functions that no pickle takes, made anew for each structure (EMT does). They are left behind as
stand-ins that say so if they are ever called; all numbers go along, so that nothing can be different without a word.
"""

from __future__ import annotations

import copy
import io
import pickle
import sys
from types import FunctionType
from typing import Any

from ase.calculators.calculator import BaseCalculator

from ase_uq.errors import InputError


class Portable:
    """A calculator in the place of itself while its owner is copied or pickled.

    Parameters
    ----------
    calculator
        The one it stands for.
    """

    def __init__(self, calculator: BaseCalculator) -> None:
        self.calculator = calculator

    def __deepcopy__(self, memo: dict[int, Any]) -> Portable:
        return Portable(copy.deepcopy(self.calculator, memo))

    def __reduce__(self) -> tuple[Any, ...]:
        content = io.BytesIO()
        try:
            _Pickler(content, pickle.HIGHEST_PROTOCOL).dump(self.calculator)
        except (TypeError, AttributeError, pickle.PicklingError) as e:
            raise InputError(
                f"`{type(self.calculator).__name__}` must be a calculator that can be pickled, got {e}; construct it "
                "in the process where it is used."
            ) from e
        return _opened, (content.getvalue(),)


class LeftBehind:
    """What was a function that a pickle cannot hold.

    Parameters
    ----------
    name
        Of the function.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Say that the function is not there.

        Raises
        ------
        InputError
            Always.
        """
        raise InputError(
            f"`{self.name}` must be there to go on, it is a function that was left behind when its calculator was "
            "pickled; construct the calculator in this process."
        )


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType) and not _is_importable(obj):
            return LeftBehind, (f"{obj.__module__}.{obj.__qualname__}",)
        return NotImplemented


def _is_importable(function: FunctionType) -> bool:
    found: Any = sys.modules.get(function.__module__)
    for name in function.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is function


def _opened(content: bytes) -> Portable:
    return Portable(pickle.loads(content))
