"""Options of a command that are fields of dataclasses, see `ase_uq.options`: declared there, once.

`@taking(Chosen("method", METHODS), ...)` gives a command an option for each field of each class, beside its own. The
command gets all of them as `**given`, and `Chosen.made` constructs the dataclass that was chosen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import wraps
from typing import Annotated, Any

import typer

from ase_uq.cli.shell_names import Means, parameters_of, with_parameters
from ase_uq.errors import InputError
from ase_uq.options import Option, options_of, parts_of, types_of

Parameter = inspect.Parameter


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of one of the classes: whose it is, its name there, and what is known of it."""

    owner: str
    name: str
    known: Option
    kind: Any
    default: Any

    @property
    def flag(self) -> str:
        return self.known.flag or self.name

    @property
    def required(self) -> bool:
        return self.default is Parameter.empty

    @property
    def bare(self) -> Any:
        return next(part for part in parts_of(self.kind) if part is not None)


class Chosen:
    """Dataclasses of which an option chooses one, such as the methods by `--method`.

    Parameters
    ----------
    option
        Name of that option, without the dashes.
    classes
        Word -> dataclass; the first is the default.
    help
        Of that option.

    Raises
    ------
    TypeError
        If an option of two classes has another type in each.
    """

    def __init__(self, option: str, classes: Mapping[str, type], help: str = "") -> None:  # noqa: A002
        self.option, self.classes, self.help = option, dict(classes), help
        self.flags: dict[str, list[_Field]] = {}
        for owner, each in self.classes.items():
            for found in _fields(owner, each):
                same = self.flags.setdefault(found.flag, [])
                if same and same[0].bare is not found.bare:
                    raise TypeError(f"--{found.flag} must have one type, it is another in {same[0].owner} and {owner}")
                same.append(found)

    def parameters(self) -> list[Parameter]:
        """Return the parameters that a command gets: the choice where there is one, and a field of each flag."""
        choice = [_choice(self.option, list(self.classes), self.help)] if self.option else []
        return [*choice, *(self._parameter(flag, fields) for flag, fields in self.flags.items())]

    def made(self, given: Mapping[str, Any], **usual: Any) -> Any:
        """Construct what was chosen of what was given; `usual` are values of fields where nothing was said.

        The message of a refused value names the field; `ase_uq.cli.shell_names` makes it the option.

        Raises
        ------
        InputError
            For an option of another class, or a value that is refused.
        """
        chosen = _plain(given[self.option]) if self.option else next(iter(self.classes))
        values: dict[str, Any] = {}
        for flag, fields in self.flags.items():
            own = next((each for each in fields if each.owner == chosen), None)
            value = _plain(given[flag])
            if own is None and value is not None:
                *others, last = [each.owner for each in fields]
                owners = f"{', '.join(others)} or {last}" if others else last
                raise InputError(
                    f"`--{_dashed(flag)}` is an option of --{self.option} {owners}, not of {chosen}; drop it."
                )
            if own is not None and value is not None:
                values[own.name] = value
            elif own is not None and own.known.shell_default is not ...:
                values[own.name] = own.known.shell_default
        return self.classes[chosen](**{**usual, **values})

    def _parameter(self, flag: str, fields: list[_Field]) -> Parameter:
        kind: Any = fields[0].bare
        choices = dict.fromkeys(word for each in fields for word in each.known.choices)
        if choices:
            kind = _enum(flag, list(choices))
        name = f"--{_dashed(flag)}"
        means = Means(*dict.fromkeys(each.name for each in fields))
        annotation: Any
        if any(each.required for each in fields):
            annotation = Annotated[kind, typer.Option(name, help=self._help(fields)), means]
            return Parameter(flag, Parameter.KEYWORD_ONLY, annotation=annotation)
        # Nothing is said by default: only then can an option of another class be told from one that was given.
        annotation = Annotated[kind | None, typer.Option(name, help=self._help(fields), show_default=False), means]
        return Parameter(flag, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    def _help(self, fields: list[_Field]) -> str:
        by_words: dict[str, list[str]] = {}
        for each in fields:
            by_words.setdefault(each.known.help, []).append(each.owner)
        shared = len(by_words) == 1 and len(fields) == len(self.classes)
        words = [words if shared else f"{', '.join(owners)}: {words}" for words, owners in by_words.items()]
        usual = {each.owner: _usual(each) for each in fields}
        if len(set(usual.values())) > 1:
            default = ", ".join(f"{owner} {value}" for owner, value in usual.items() if value)
        else:
            default = next(iter(usual.values()))
        text = " ".join(words)
        return f"{text.rstrip('.')} [{default}]." if default else text


def taking(*groups: Chosen, after: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these groups, behind its own parameter `after`."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            each.replace(kind=Parameter.KEYWORD_ONLY)
            for each in parameters_of(command)
            if each.kind is not Parameter.VAR_KEYWORD
        ]
        place = 1 + [each.name for each in own].index(after)
        made = [each for group in groups for each in group.parameters()]

        @wraps(command)
        def called(**given: Any) -> None:
            command(**given)

        return with_parameters(called, [*own[:place], *made, *own[place:]])

    return decorated


def _fields(owner: str, kind: type) -> Iterator[_Field]:
    types, defaults = types_of(kind), inspect.signature(kind).parameters
    for name, known in options_of(kind).items():
        if known.at_shell:
            yield _Field(owner, name, known, types[name], defaults[name].default)


def _choice(name: str, words: list[str], text: str) -> Parameter:
    kind = _enum(name, words)
    annotation: Any = Annotated[kind, typer.Option(f"--{_dashed(name)}", help=text)]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=kind(words[0]), annotation=annotation)


def _enum(name: str, words: list[str]) -> Any:
    return Enum(name.capitalize(), {word: word for word in words})


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


def _usual(field: _Field) -> str:
    if field.known.usual is not None:
        return field.known.usual
    return "" if field.default is None or field.required else f"{field.default}"


def _dashed(flag: str) -> str:
    return flag.replace("_", "-")
