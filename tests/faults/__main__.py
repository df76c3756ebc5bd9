"""`python -m tests.faults`: the table of all faults, what happened and what was lost."""

from __future__ import annotations

import importlib
import re
import tempfile
from pathlib import Path

from tests.faults.fault import Fault


def families() -> list[str]:
    """Names of the modules that hold faults."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*_faults.py") if not path.stem.startswith("test_"))


def outcome(fault: Fault) -> str:
    """Inject a fault in a folder of its own and return what happened."""
    with tempfile.TemporaryDirectory() as folder:
        found = " ".join(fault.inject(Path(folder)).replace(folder, "").split())
    if not re.search(fault.expected, found):
        raise AssertionError(f"{fault.name}: expected {fault.expected!r}, got {found!r}")
    return found


def main() -> None:
    """Print the table."""
    print("| kind | fault | what happened | lost |\n| --- | --- | --- | --- |")
    for family in families():
        for fault in importlib.import_module(f"tests.faults.{family}").FAULTS:
            print(f"| {fault.kind} | {fault.name} | {outcome(fault)} | {fault.lost} |", flush=True)


if __name__ == "__main__":
    main()
