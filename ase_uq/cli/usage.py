"""What is wrong with a command as it was typed, in one sentence: which option, the rule, the value, the cure.

The parser says it in its own words, which differ between its versions; what the rule is follows from the parameters of
the command.
"""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated, Any, get_args, get_origin

import typer

from ase_uq.cli.shell_names import parameters_of, shell_name

# All errors of the parser; what it is called, and whose it is, has changed between versions of typer.
USAGE_ERROR: Any = typer.BadParameter.__base__

# Options of earlier versions that scripts may have, and what says the same today.
FORMER = {
    ("reweight", "--rdf"): "--observable rdf:O-O",
    ("reweight", "--compute"): "--observable",
    ("report", "--rdf"): "--observable rdf:O-O",
    ("report", "--compute"): "--observable",
    ("rerun", "--interval"): "--interval-fs",
    ("rerun", "--no-forces-var"): "--forces-var off",
}


def sentence_of(error: Any) -> str:
    """Return the sentence of an error of the parser."""
    context = error.ctx
    # Some errors do not know their command.
    name = context.info_name if context is not None and context.parent is not None else "".join(sys.argv[1:2])
    command = f"ase-uq {name}" if context is None or context.parent is not None else "ase-uq"
    cure = f"see {command} --help."
    option, param = getattr(error, "option_name", None), getattr(error, "param", None)
    if option is not None and "no such option" in error.message.lower():
        return _unknown(option, command, list(error.possibilities or ()), cure)
    if option is not None:
        return f"`{option}` {'needs a value' if 'requires' in error.message else 'takes no value'}; {cure}"
    if param is not None and context is not None and context.command.callback is not None:
        found = {each.name: each for each in parameters_of(context.command.callback)}.get(param.name)
        if found is not None:
            return _refused(found, cure, missing=type(error).__name__ == "MissingParameter")
    told = error.format_message().rstrip(".")
    return f"{told[:1].lower()}{told[1:]}; {cure}"


def _unknown(option: str, command: str, possible: list[str], cure: str) -> str:
    former = FORMER.get((command.removeprefix("ase-uq "), option))
    if former is not None:
        return f"`{option}` is now {former}; write that instead."
    meant = f"did you mean {' or '.join(sorted(possible))}?" if possible else cure
    return f"`{option}` is no option of {command}; {meant}"


def _refused(parameter: Any, cure: str, *, missing: bool) -> str:
    name = shell_name(parameter)
    if missing:
        return f"`{name}` must be given; {cure}"
    kind = _kind(parameter.annotation)
    if issubclass(kind, Enum):
        rule, cure = f"must be one of {', '.join(each.value for each in kind)}", "choose one."
    else:
        rule = {int: "must be a whole number", float: "must be a number"}.get(kind, "has a value that it cannot have")
    value = _typed(name)
    return f"`{name}` {rule}{'' if value is None else f', got {value!r}'}; {cure}"


def _kind(annotation: Any) -> type:
    """Return the type of one value of a parameter: that of `list[int] | None` is `int`."""
    while get_args(annotation):
        parts = get_args(annotation)
        first = get_origin(annotation) is Annotated
        annotation = parts[0] if first else next(part for part in parts if part is not type(None))
    return annotation if isinstance(annotation, type) else object


def _typed(name: str) -> str | None:
    """Return what was typed for an option, the last time it was."""
    words = sys.argv
    for i in range(len(words) - 1, 0, -1):
        if words[i].startswith(f"{name}="):
            return words[i].partition("=")[2]
        if words[i] == name and i + 1 < len(words):
            return words[i + 1]
    return None
