"""`python -m tests`: everything CI checks, in the order in which it fails fastest."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports", "--no-logo"),
    (sys.executable, "-m", "pytest", "-q", "--durations=10"),
)


def main() -> None:
    """Run every check; stop at the first that fails, with its exit code."""
    # The tools of this environment, whether or not it is activated.
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    for command in CHECKS:
        print(f"\n$ {' '.join(command)}", flush=True)
        done = subprocess.run(command, cwd=ROOT, env=environment)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main()
