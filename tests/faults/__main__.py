"""`python -m tests.faults [--out FILE]`: the table of all faults, what happened and what was lost."""

from __future__ import annotations

import argparse
import importlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults.fault import Fault

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """\
# Faults

What was done to runs, logs, trainings, labels, model files and calculators, what happened, and what was lost by it.
`python -m tests.faults --out docs/faults.md` injects every fault and writes this file; CI injects every one of them,
and fails where data are lost, a wrong number passes in silence, or a user's mistake ends in a traceback. `ase-uq`
translates the names of arguments in these messages into those of its options.

"""
# What differs from one run of the table to the next, and what is too long to be read.
_PLAIN = (
    (r"in process \d+ on \S+, since [-\d]+ [:\d]+", "in process N on HOST, since DATE"),
    (r"\b([0-9a-f]{8})[0-9a-f]{40,}(\.{3})?", r"\1..."),
    (r"key-[0-9a-f.]+", "key-..."),
    (r"interrupted after step \d+", "interrupted after step N"),
    (r"((.)\2{9})\2+", r"\1..."),
    (r"^refused: ``", "refused: `FOLDER`"),
    (r"\|", r"\\|"),
)


def families() -> list[str]:
    """Names of the modules that hold faults."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*_faults.py") if not path.stem.startswith("test_"))


def all_faults() -> Iterator[Fault]:
    """Yield every fault of every family."""
    for family in families():
        yield from importlib.import_module(f"tests.faults.{family}").FAULTS


def outcome(fault: Fault) -> str:
    """Inject a fault in a folder of its own and return what happened."""
    with tempfile.TemporaryDirectory() as folder:
        found = " ".join(fault.inject(Path(folder)).replace(folder, "").split())
    if not re.search(fault.expected, found):
        raise AssertionError(f"{fault.name}: expected {fault.expected!r}, got {found!r}")
    return found


def shown(text: str) -> str:
    """Return a text of the table: the same on every machine, and no longer than a reader has patience for."""
    for pattern, plain in _PLAIN:
        text = re.sub(pattern, plain, text)
    return text


def heading(fault: Fault) -> str:
    """Return the first columns of its row."""
    return f"| {fault.kind} | {shown(fault.name)} |"


def main() -> None:
    """Print the table, or write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write instead of printing")
    out = parser.parse_args().out
    rows = ["| kind | fault | what happened | lost |", "| --- | --- | --- | --- |"]
    if out is None:
        print("\n".join(rows))
    for fault in all_faults():
        rows.append(f"{heading(fault)} {shown(outcome(fault))} | {fault.lost} |")
        if out is None:
            print(rows[-1], flush=True)
    if out is not None:
        out.write_text(f"{HEAD}{len(rows) - 2} faults.\n\n" + "\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
