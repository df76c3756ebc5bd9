"""A log that grows takes no more memory."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: what others free would hide what this one keeps.
GROWTH = """
import os, sys
from pathlib import Path
import numpy as np
from ase_uq.log.columns import Column
from ase_uq.log.writer import FrameWriter

ROWS, N = 100, 15_000
columns = [Column("step", "1", "int64"), *(Column(f"c{i}", "eV") for i in range(12)), Column("m", "eV", shape=(4,))]
writer = FrameWriter(Path(sys.argv[1]), columns, {}, flush_every=ROWS)
writer.publish()
sizes = []
for start in range(0, 2 * N, ROWS):
    rows = np.arange(start, start + ROWS)
    writer.extend({c.name: np.ones((ROWS, *c.shape)).astype(c.dtype) * rows.reshape(-1, *[1] * len(c.shape))
                   for c in columns})
    sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE"))
writer.close()
half = len(sizes) // 2
print((sizes[-1] - sizes[half]) / N)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory of a process is read from /proc")
def test_a_growing_log_takes_no_more_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(tmp_path / "run.h5")], capture_output=True, text=True, check=True
    )
    # A frame has 136 bytes of values.
    assert float(done.stdout) < 20.0
