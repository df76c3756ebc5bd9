"""How an observable stands in a log: attributes of its dataset, written from it and read back.

=================================  ====================================================
attribute of the dataset           of the observable
=================================  ====================================================
`unit`                             `unit`
`axis`, `axis_name`, `axis_unit`   `axis`
`is_histogram`                     `is_histogram`
`members`                          `of_members`
`period`                           `period`
=================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ase_uq.observables.observable import Observable
from ase_uq.reweighting.axis import Axis

_NAMES = ("axis", "axis_name", "axis_unit", "is_histogram", "members")


def attributes_of(observable: Observable) -> dict[str, Any]:
    """What a reader needs to know of the values, but for their unit; nothing of a plain number."""
    attributes: dict[str, Any] = {"members": True} if observable.of_members else {}
    attributes |= axis_attributes(observable.axis)
    if observable.is_histogram:
        attributes["is_histogram"] = True
    if observable.period is not None:
        attributes["period"] = observable.period
    return attributes


def axis_attributes(axis: Axis | None) -> dict[str, Any]:
    """Attributes of an axis, none without one."""
    if axis is None:
        return {}
    return {"axis": np.asarray(axis.centres, dtype=np.float64), "axis_name": axis.name, "axis_unit": axis.unit}


def axis_of(attributes: Mapping[str, Any]) -> Axis | None:
    """Axis of an observable with bins, `None` of any other."""
    if "axis" not in attributes:
        return None
    return Axis(np.asarray(attributes["axis"]), str(attributes["axis_name"]), str(attributes["axis_unit"]))


def period_of(attributes: Mapping[str, Any]) -> float | None:
    """Period of values on a circle, `None` of any other."""
    return float(attributes["period"]) if "period" in attributes else None


def is_of_members(attributes: Mapping[str, Any]) -> bool:
    """Whether the values are one for each member."""
    return bool(attributes.get("members", False))


def mean_the_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether the attributes of two datasets say the same; a unit that is not known agrees with any."""
    units = {str(attributes.get("unit", "")) for attributes in (first, second)} - {""}
    return len(units) < 2 and all(np.array_equal(first.get(name, ""), second.get(name, "")) for name in _NAMES)
