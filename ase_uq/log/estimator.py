"""The estimator of the variance of forces in a log: its name and its options, each an attribute.

`forces_var` is the name, `forces_var_every` and the like the options. Logs of earlier versions have one text instead,
such as "Stochastic(every=3, seed=0)", which is taken apart when they are read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NAME = "forces_var"
_EARLIER = re.compile(r"(\w+)\((.*)\)")


def estimator_attributes(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Attributes for the settings of an estimator, `name` and options; an empty name where there is none."""
    options = dict(settings or {})
    return {_NAME: options.pop("name", ""), **{f"{_NAME}_{option}": value for option, value in options.items()}}


def estimator_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the estimator of a log; empty where it says nothing."""
    if not attributes.get(_NAME):
        return {}
    options = {key.removeprefix(f"{_NAME}_"): attributes[key] for key in attributes if key.startswith(f"{_NAME}_")}
    return {"name": attributes[_NAME], **options}


def taken_apart(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a log of any version as this one writes them."""
    found = _EARLIER.fullmatch(str(attributes.get(_NAME, "")))
    if found is None:
        return dict(attributes)
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", found[1]).lower()
    pairs = (part.partition("=") for part in found[2].split(", ") if part)
    return {**attributes, **estimator_attributes({"name": name, **{key: _number(text) for key, _, text in pairs}})}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
