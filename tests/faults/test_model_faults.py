"""Every fault of models comes to what is expected."""

import pytest

from tests.faults.__main__ import outcome
from tests.faults.model_faults import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(fault):
    assert outcome(fault)
