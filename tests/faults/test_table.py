"""The table in the documentation is that of the faults that are injected."""

from tests.faults.__main__ import TABLE, all_faults, heading


def test_the_table_has_every_fault_and_no_other():
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")][2:]
    found = [" | ".join(row.split(" | ", 2)[:2]) + " |" for row in rows]
    assert found == [heading(fault) for fault in all_faults()], "python -m tests.faults --out docs/faults.md"


def test_there_are_more_than_a_hundred_faults_and_no_two_of_one_name():
    names = [(fault.kind, fault.name) for fault in all_faults()]
    assert len(names) == len(set(names)) > 100
