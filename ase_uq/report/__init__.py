"""The report: one self-contained HTML page about a run.

`averages` draws the numbers from a log, `figures` and `svg` the pictures, `page` and `sections` the HTML; `build` joins
them.
"""

from ase_uq.report.build import build_report, write_report

__all__ = ["build_report", "write_report"]
