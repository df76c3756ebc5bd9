"""`option`: a field of a dataclass that says what it means, which values it takes, and how the shell calls it.

The options of a training, of every method and of every architecture are such dataclasses. Python constructs them; the
command line makes its options of the same fields, see `ase_uq.cli.dataclass_options`. Nothing here needs torch, so that
help is there at once.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from ase_uq.errors import InputError

_KEY = "option"


@dataclass(frozen=True, slots=True)
class Option:
    """What is known of an option beside its name, type and default.

    Attributes
    ----------
    help
        One sentence, with the unit.
    flag
        Its name at the shell where that is not the one of the field, without the dashes.
    at_least, above, at_most, below
        Bounds of its values.
    choices
        The words it may be.
    cure
        What to do about a value that is refused.
    usual
        What happens when nothing is said, in words, where the default does not tell.
    at_shell
        Whether the command line has it.
    shell_default
        What the command line takes when nothing is said, where that is not the default.
    recorded
        Whether models keep it: not what makes a training faster and changes no number.
    """

    help: str
    flag: str | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    cure: str = "change it"
    usual: str | None = None
    at_shell: bool = True
    shell_default: Any = ...
    recorded: bool = True

    @property
    def rule(self) -> str:
        """The values it takes, in words that follow its name."""
        if self.choices:
            return f"must be one of {', '.join(self.choices)}"
        low = self.above if self.at_least is None else self.at_least
        high = self.below if self.at_most is None else self.at_most
        if low is not None and high is not None:
            left, right = "(" if self.at_least is None else "[", ")" if self.at_most is None else "]"
            return f"must lie in {left}{low:g}, {high:g}{right}"
        if low is not None:
            at_least = "must not be negative" if low == 0 else f"must be at least {low:g}"
            above = "must be positive" if low == 0 else f"must be above {low:g}"
            return above if self.at_least is None else at_least
        return "must be a finite number" if high is None else f"must be at most {high:g}"

    def allows(self, value: Any) -> bool:
        """Return whether a value is one of those it takes; what is neither a number nor a choice is not judged."""
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return True
        x = float(value)
        return (
            math.isfinite(x)
            and (self.at_least is None or x >= self.at_least)
            and (self.above is None or x > self.above)
            and (self.at_most is None or x <= self.at_most)
            and (self.below is None or x < self.below)
        )


def option(default: Any, help: str, **known: Any) -> Any:  # noqa: A002
    """Return a field of a dataclass with its default and what `Option` holds of it."""
    return dataclasses.field(default=default, metadata={_KEY: Option(help, **known)})


def options_of(kind: type) -> dict[str, Option]:
    """Return the options of a dataclass by the names of their fields."""
    return {field.name: field.metadata[_KEY] for field in dataclasses.fields(kind) if _KEY in field.metadata}


def types_of(kind: type) -> dict[str, Any]:
    """Return the types of these options."""
    hints = get_type_hints(kind)
    return {name: hints[name] for name in options_of(kind)}


def check_options(made: Any) -> None:
    """Check the values of a dataclass with options; call it in `__post_init__`.

    Raises
    ------
    InputError
        For a value of another type or out of range.
    """
    types = types_of(type(made))
    for name, known in options_of(type(made)).items():
        value = getattr(made, name)
        wanted = parts_of(types[name])
        if value is None and None in wanted:
            continue
        if not any(_is(value, kind) for kind in wanted):
            words = " or ".join(_WORDS[kind] for kind in wanted)
            raise InputError(f"`{name}` must be {words}, got {value!r}; {known.cure}.")
        if not known.allows(value):
            raise InputError(f"`{name}` {known.rule}, got {value!r}; {known.cure}.")


def parts_of(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, `None` for that of `None`; another type is its own only part."""
    parts = get_args(kind) or (kind,)
    return tuple(None if part is type(None) else part for part in parts)


_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "True or False", None: "None"}


def _is(value: Any, kind: type | None) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is float:
        return isinstance(value, numbers.Real)
    return isinstance(value, numbers.Integral) if kind is int else kind is str and isinstance(value, str)


def recorded(made: Any) -> dict[str, Any]:
    """Return the options that a model keeps, by name, without those that are not set."""
    values = {name: getattr(made, name) for name, known in options_of(type(made)).items() if known.recorded}
    return {name: value for name, value in values.items() if value is not None}
