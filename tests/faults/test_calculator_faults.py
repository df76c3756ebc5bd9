"""Every fault of calculators comes to what is expected."""

import pytest

from tests.faults.__main__ import outcome
from tests.faults.calculator_faults import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault):
    assert outcome(fault)
