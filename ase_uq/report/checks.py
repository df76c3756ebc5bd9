"""The table of all checks behind a result, passed and failed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ase_uq.averages.text import format_significant
from ase_uq.report.page import text
from ase_uq.reweighting.gate import YES_OR_NO, Gate


def checks_table(heading: str, gates: Sequence[Gate]) -> str:
    """Return a table of gates behind a line that says how many passed; nothing without gates."""
    if not gates:
        return ""
    failed = sum(gate.failed for gate in gates)
    summary = f"{heading}: {len(gates) - failed} of {len(gates)} passed"
    rows = "\n".join(map(_row, gates))
    columns = "".join(f'<th scope="col">{name}</th>' for name in ("Check", "Found", "Limit", "Verdict"))
    return (
        f"<details><summary>{text(summary)}</summary>"
        '<div class="scroll">'
        f'<table class="checks"><thead><tr>{columns}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div></details>'
    )


def _row(gate: Gate) -> str:
    verdict = '<td class="failed">read the warning</td>' if gate.failed else "<td>passed</td>"
    limit = _number(gate.limit, gate.unit)
    if gate.unit != YES_OR_NO:
        limit = f"{'at least' if gate.at_least else 'at most'} {limit}"
    return (
        f'<tr><th scope="row">{text(gate.name)}</th><td>{text(_number(gate.value, gate.unit))}</td>'
        f"<td>{text(limit)}</td>{verdict}</tr>"
    )


def _number(value: float, unit: str) -> str:
    if unit == YES_OR_NO:
        return "yes" if value else "no"
    # What is zero but for rounding is zero.
    value = 0.0 if abs(value) < 1e-9 else float(value)
    shown = f"{value:.0f}" if value.is_integer() else format_significant(value, 3)
    return f"{shown} {unit}".rstrip() if np.isfinite(value) else "not known"
