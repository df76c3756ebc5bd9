"""Every fault of the stages of a run ends as it should."""

import pytest

from tests.faults.__main__ import outcome
from tests.faults.stage_faults import FAULTS


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_nothing_is_lost(fault):
    outcome(fault)
