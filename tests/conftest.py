"""Data and small models that many tests share."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

# Small tensors on many threads only wait for each other.
torch.set_num_threads(1)

# The environment of MACE has no hypothesis, and needs none.
if importlib.util.find_spec("hypothesis") is not None:
    from hypothesis import settings

    # How long an example takes says how busy a machine is.
    settings.register_profile("any machine", deadline=None)
    settings.load_profile("any machine")

DEFAULT_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Folder of the first-principles data; missing data skip a test, and fail it where they are required."""
    folder = Path(os.environ.get("ASE_UQ_DATA", DEFAULT_DATA))
    if not folder.is_dir():
        message = f"{folder} does not exist; set ASE_UQ_DATA to the folder of the first-principles data"
        if os.environ.get("ASE_UQ_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder
