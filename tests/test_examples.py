"""Every script in `examples/` runs, and so do the Python blocks and the commands of the README."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer
from ase.build import bulk
from ase.io import write

from ase_uq.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


# Those that want data or another environment have tests of their own.
EXAMPLES = sorted(
    path for path in (ROOT / "examples").glob("*.py") if path.stem not in ("ani_committee", "blip_of_mace")
)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(path), run_name="__main__")
    assert "±" in capsys.readouterr().out


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_of_the_readme_runs(tmp_path, monkeypatch):
    """All blocks in one namespace, in order, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    write("start.xyz", bulk("Cu", cubic=True).repeat(2))
    code = "\n".join(blocks("python"))
    assert "UQCalculator" in code
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})


def commands():
    for block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words and words[0].split("/")[-1] == "ase-uq":
                    yield words[1:]


@pytest.mark.parametrize("words", list(commands()), ids=lambda words: " ".join(words)[:70])
def test_commands_of_the_readme_exist_with_their_options(words):
    """Parsed by the command line itself, without running; the demo runs in CI as the README has it."""
    group = typer.main.get_command(app)
    command = group.commands[words[0]]
    context = command.make_context(words[0], words[1:])
    assert context.params
