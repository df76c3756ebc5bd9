"""The table of all checks behind a result, passed and failed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ase_uq.formatting import format_significant
from ase_uq.report.page import text
from ase_uq.reweighting.gates import Gate


def checks_table(heading: str, gates: Sequence[Gate]) -> str:
    """Return a table of gates behind a line that says how many passed, open where one failed; nothing without gates."""
    if not gates:
        return ""
    failed = sum(gate.failed for gate in gates)
    summary = f"{heading}: {len(gates) - failed} of {len(gates)} passed"
    rows = "\n".join(map(_row, gates))
    columns = "".join(f'<th scope="col">{name}</th>' for name in ("Check", "Found", "Limit", "Verdict"))
    return (
        f'<details{" open" if failed else ""}><summary>{text(summary)}</summary><div class="scroll">'
        f'<table class="checks"><thead><tr>{columns}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div></details>'
    )


def _row(gate: Gate) -> str:
    verdict = '<td class="failed">read the warning</td>' if gate.failed else "<td>passed</td>"
    limit = f"{'at least' if gate.at_least else 'at most'} {_number(gate.limit, gate.unit)}"
    return (
        f'<tr><th scope="row">{text(gate.name)}</th><td>{text(_number(gate.value, gate.unit))}</td>'
        f"<td>{text(limit)}</td>{verdict}</tr>"
    )


def _number(value: float, unit: str) -> str:
    # What is zero but for rounding is zero.
    shown = "0" if abs(value) < 1e-9 else format_significant(float(value), 3)
    return f"{shown} {unit}".rstrip() if np.isfinite(value) else "not known"
