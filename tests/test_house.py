"""Rules of the house that no linter knows."""

import ast
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from tokenize import COMMENT, STRING

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "ase_uq").rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_imports_the_package_root(path):
    assert "ase_uq" not in set(imports(path))


def documented():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                yield path, node, ast.get_docstring(node)


def test_docstrings_are_sentences():
    """A letter, a word or a shape says nothing to a reader who does not know the code."""
    short = [
        (path.name, node.name, text)
        for path, node, text in documented()
        if len(re.findall(r"[^\W\d_]{2,}", text)) < 2 or text.startswith("(")
    ]
    assert short == []


def test_descriptions_of_arguments_are_more_than_a_word():
    entry = re.compile(r"^([a-z_][\w, ]*)\n    (\S[^\n]*)(?=\n\S|\n\n|\Z)", re.MULTILINE)
    short = [
        (path.name, node.name, name, text)
        for path, node, docstring in documented()
        for name, text in entry.findall(docstring)
        if re.fullmatch(r"\S+", text) and "(" not in text and '"' not in text and "`" not in text
    ]
    assert short == []


def shapes():
    """Yield what stands in parentheses in docstrings and comments and looks like a shape."""
    for path in MODULES:
        with path.open("rb") as file:
            words = [token for token in tokenize.tokenize(file.readline) if token.type in (STRING, COMMENT)]
        for token in words:
            for shape in re.findall(r"\(((?:[\w.'+ -]+, ?)+[\w.'+ -]*)\)", token.string):
                yield f"{path.name}:{token.start[0]}", shape


def test_letters_of_shapes_mean_one_thing():
    """K is kelvin, not a size; draws are members, M; see the words of the guide."""
    found = list(shapes())
    assert len(found) > 500
    assert [(place, shape) for place, shape in found if re.search(r"(?<![\w.])K(?![\w.])", shape)] == []


def test_a_committee_is_made_of_calculators():
    apart = {"calculators", "adapters"}
    named = [
        f"{path.name}:{n}"
        for path in MODULES
        if path.parent.name not in apart
        for n, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(r"\bcommittees?\b", line.replace("calculators.committee", "").replace("committee of ASE", ""))
    ]
    assert named == []


def keeps_the_environment(node):
    pairs = zip(node.keys, node.values, strict=True)
    return any(key is None and ast.unparse(value) == "os.environ" for key, value in pairs)


def test_children_keep_the_environment():
    """Variables choose the code paths of BLAS and torch: without them numbers differ from those of the parent."""
    own = [
        f"{path.relative_to(ROOT)}:{node.value.lineno}"
        for folder in ("tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "env"
        if isinstance(node.value, ast.Dict) and not keeps_the_environment(node.value)
    ]
    assert own == []


MOST_LINES, MOST_OF_A_FUNCTION, MOST_ARGUMENTS = 400, 60, 12
# What is above its budget today, by file, or file and function. The list may only become shorter.
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()
MANY_ARGUMENTS = {
    "reweighting/trajectory.py:reweight",
    "uncertainty/prediction.py:from_energies",
    "validation/calibration.py:calibrate",
}


def functions():
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT / 'ase_uq')}:{node.name}", node


def lines_of_code(node):
    """Lines of a function without its docstring, which says what it has to say."""
    first, has_docstring = node.body[0], ast.get_docstring(node) is not None
    return node.end_lineno - node.lineno + 1 - (first.end_lineno - first.lineno + 1 if has_docstring else 0)


def arguments(node):
    a = node.args
    named = [each.arg for each in (*a.posonlyargs, *a.args, *a.kwonlyargs) if each.arg not in ("self", "cls")]
    return len(named) + (a.vararg is not None) + (a.kwarg is not None)


def test_files_are_small():
    long = {str(p.relative_to(ROOT / "ase_uq")) for p in MODULES if len(p.read_text().splitlines()) > MOST_LINES}
    assert long == LONG_FILES


def test_functions_are_short():
    assert {name for name, node in functions() if lines_of_code(node) > MOST_OF_A_FUNCTION} == LONG_FUNCTIONS


def test_functions_have_few_arguments():
    """A command of the command line has as many as it has options."""
    many = {name for name, node in functions() if arguments(node) > MOST_ARGUMENTS and not name.startswith("cli/")}
    assert many == MANY_ARGUMENTS


def test_files_that_the_guide_names_exist():
    named = re.findall(r"`((?:ase_uq|tests)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(set(named)) >= 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_has_the_commands_that_are_run():
    commands = re.findall(r"^(python3 -m venv .*) \|\| exit 1$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    taught = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(taught) == 3
    assert taught == commands


def test_importing_everything_changes_no_global_state():
    script = """
import os, random, warnings
import numpy as np, torch, ase.calculators.calculator as c, ase.outputs as o
import ase.calculators.lj, ase.calculators.emt, e3nn.o3, rich.live  # these two do change something when imported
state = lambda: (
    torch.get_default_dtype(), torch.get_num_threads(), torch.initial_seed(), dict(os.environ), list(c.all_properties),
    sorted(o.all_outputs), list(c.Calculator.implemented_properties), np.random.get_state()[1].tolist(),
    random.getstate(), np.geterr(), list(ase.calculators.emt.EMT.implemented_properties),
)
before = state()
import ase_uq, pkgutil, importlib
for module in pkgutil.walk_packages(ase_uq.__path__, "ase_uq."):
    if module.name != "ase_uq.__main__" and ".data" not in module.name:
        importlib.import_module(module.name)
after = state()
print([i for i, (a, b) in enumerate(zip(before, after)) if a != b])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_documented():
    import ase_uq

    for name in ase_uq.__all__:
        assert getattr(ase_uq, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute"):
        _ = ase_uq.NoSuchThing
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ase_uq.nonsense


def test_no_public_name_is_hidden_by_a_module():
    """A module of the same name would take its place as soon as anything imports it."""
    import ase_uq

    assert not {path.stem for path in (ROOT / "ase_uq").iterdir()} & set(ase_uq.__all__)
