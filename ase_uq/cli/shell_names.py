"""Messages at the shell name options of the shell: `--skip`, not `skip_fs`; `--restart`, not `append=True`.

Messages are written where a rule is checked, for Python, and name arguments. What an argument is called at the shell
follows from the parameters of the command: a parameter has the name of the argument it becomes, and `Means("append")`
in its annotation adds the names of others. `speaks_shell` translates the errors of a command, `spoken` what it says.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from ase_uq.errors import InputError, RunError

# Of an argument in Python, but not of a file such as seed=1.h5.
_VALUE = r"(?:True|False|None|\([^)]*\)|'[^']*'|\"[^\"]*\"|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w/]|\.\w)"
_current: ContextVar[Mapping[str, str] | None] = ContextVar("_current", default=None)


class StoppedError(Exception):
    """A command that the user stopped (Ctrl-C); the parser would end a `KeyboardInterrupt` without a word."""


class Means:
    """Further arguments that an option stands for, and what others are called that messages about it may name.

    Parameters
    ----------
    arguments
        Names, or one with its value, such as `"bias=False"`.
    others
        Argument to what the shell calls it, where that is an option of another command: `store="md --store"`.
    """

    def __init__(self, *arguments: str, **others: str) -> None:
        self.arguments, self.others = arguments, others


def parameters_of(command: Callable[..., None]) -> list[inspect.Parameter]:
    """Return the parameters of a command, with their annotations as objects."""
    hints = get_type_hints(command, include_extras=True)
    return [
        each.replace(annotation=hints.get(each.name, each.annotation))
        for each in inspect.signature(command).parameters.values()
    ]


def with_parameters(command: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """Give a command a signature, for those who make options of it."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


def shell_name(parameter: inspect.Parameter) -> str:
    """Return what a parameter of a command is called at the shell: `--skip`, or `START` for an argument."""
    known = _metadata(parameter, typer.models.ParameterInfo)
    if known and isinstance(known[0], typer.models.ArgumentInfo):
        return known[0].metavar or parameter.name.upper()
    # In an annotation, what typer calls the default is the first name.
    names = [] if not known else [known[0].default, *(known[0].param_decls or ())]
    declared = [each for each in names if isinstance(each, str) and each.startswith("--")]
    # Without a name of its own the option has that of the parameter; of --on/--off it is the first.
    return (declared[0] if declared else f"--{parameter.name.strip('_').replace('_', '-')}").partition("/")[0]


def names_at_shell(command: Callable[..., None]) -> dict[str, str]:
    """Return the table of a command: argument, or argument with a value, to what the shell calls it."""
    parameters = parameters_of(command)
    table = {each.name.strip("_"): shell_name(each) for each in parameters}
    for each in parameters:
        for means in _metadata(each, Means):
            table |= dict.fromkeys(means.arguments, shell_name(each)) | means.others
    return table


def translated(message: str, names: Mapping[str, str]) -> str:
    """Return a message with the names of the shell in the place of arguments.

    An argument is told by its backticks or by its value: `name`, `name['key']`, `name.part`, name=True, name='value'.

    Examples
    --------
    >>> names = {"append": "--restart", "store": "--store", "atoms": "START"}
    >>> translated("`atoms` are elsewhere; pass append=True, or `store=('cell',)`.", names)
    '`START` are elsewhere; pass --restart, or `--store cell`.'
    """
    whole = {text: name for text, name in names.items() if "=" in text}
    plain = {text: name for text, name in names.items() if "=" not in text}
    for text, name in whole.items():
        message = re.sub(rf"(?<![\w.]){re.escape(text)}(?!\w)", name, message)
    if not plain:
        return message
    known = "|".join(sorted(map(re.escape, plain), key=len, reverse=True))
    quoted = rf"`(?P<quoted>{known})(?:\[(?P<key>'[^']*')\]|\.(?P<part>\w+))?`"
    assigned = rf"(?<![\w.'\"/-])(?P<assigned>{known})=(?P<value>{_VALUE})"

    def name_of(found: re.Match[str]) -> str:
        if found["assigned"]:
            return _given(plain[found["assigned"]], found["value"])
        if found["part"]:
            return f"the `{found['part']}` of `{plain[found['quoted']]}`"
        key = "" if found["key"] is None else f" {found['key']}"
        return f"`{plain[found['quoted']]}`{key}"

    said = re.sub(f"{quoted}|{assigned}", name_of, message)
    # Two arguments may be one option.
    return re.sub(r"(`[^`]+`)(?:, \1)+(?!\w)", r"\1", said)


def spoken(message: str) -> str:
    """Return a sentence, such as a warning, as the command that is running says it."""
    return translated(message, _current.get() or {})


def speaks_shell(command: Callable[..., None]) -> Callable[..., None]:
    """Let the errors of a command, and what it passes to `spoken`, name options of the shell."""
    parameters, names = parameters_of(command), names_at_shell(command)
    going_on = next((name for name in ("--resume", "--restart") if name in names.values()), None)

    @wraps(command)
    def speaking(*given: Any, **named: Any) -> None:
        token = _current.set(names)
        try:
            command(*given, **named)
        except (InputError, RunError) as e:
            # The same error, whatever it was made of.
            e.args = (translated(str(e), names),)
            raise
        except KeyboardInterrupt as e:
            kept = "" if going_on is None else f"; what was done is kept, {going_on} goes on"
            raise StoppedError(translated(str(e), names) or f"interrupted{kept}") from e
        finally:
            _current.reset(token)

    return with_parameters(speaking, parameters)


def _given(name: str, value: str) -> str:
    if value == "True":
        return name
    values = re.findall(r"[^\s,()'\"]+", value)
    return " ".join([name, f" {name.split()[-1]} ".join(values)])


def _metadata(parameter: inspect.Parameter, kind: type) -> list[Any]:
    if get_origin(parameter.annotation) is not Annotated:
        return []
    return [each for each in get_args(parameter.annotation)[1:] if isinstance(each, kind)]
