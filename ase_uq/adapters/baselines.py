"""Calculators of other packages that serve as baselines, made by their names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ase.calculators.calculator import BaseCalculator

from ase_uq.errors import InputError

# name -> (module, class, arguments, what to install)
NAMED: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "gfn2-xtb": ("tblite.ase", "TBLite", {"method": "GFN2-xTB", "verbosity": 0}, "pip install 'ase-uq[xtb]'"),
    "gfn1-xtb": ("tblite.ase", "TBLite", {"method": "GFN1-xTB", "verbosity": 0}, "pip install 'ase-uq[xtb]'"),
    "emt": ("ase.calculators.emt", "EMT", {}, "it comes with ASE"),
}


def baseline_calculator(name: str) -> BaseCalculator:
    """Build a baseline: a name of the table above, or "package.module:Class" of any ASE calculator without arguments.

    Raises
    ------
    InputError
        For an unknown name, or a package that is not installed.
    """
    if name.lower() in NAMED:
        module, attribute, arguments, cure = NAMED[name.lower()]
    elif ":" in name:
        module, _, attribute = name.partition(":")
        arguments, cure = {}, "install the package it comes from"
    else:
        raise InputError(
            f"`baseline` must be one of {', '.join(NAMED)} or package.module:Class, got {name!r}; choose one."
        )
    try:
        factory: Callable[..., BaseCalculator] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise InputError(f"`baseline` {name!r} could not be imported ({e}); {cure}.") from e
    return factory(**arguments)
