"""Options of a command made of dataclasses: whose they are, what is given, what is said, what is refused."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ase_uq.cli.dataclass_options import Chosen, taking
from ase_uq.cli.shell_names import speaks_shell
from ase_uq.errors import InputError
from ase_uq.options import check_options, option


@dataclass(frozen=True)
class Sphere:
    n_points: int = option(4, "Points.", flag="points", at_least=2)
    radius: float = option(1.0, "Radius, Å.", above=0)
    kind: str = option("full", "Kind.", choices=("full", "hollow"))
    threads: int | None = option(1, "threads.", usual="all there are", shell_default=None)
    hidden: int = option(7, "Not at the shell.", at_shell=False)

    def __post_init__(self):
        check_options(self)


@dataclass(frozen=True)
class Cube:
    n_points: int = option(8, "Points.", flag="points", at_least=2)
    edge: float | None = option(None, "edge, Å.", above=0)
    kind: str = option("full", "Kind of cube.", choices=("full", "open"))

    def __post_init__(self):
        check_options(self)


@dataclass(frozen=True)
class Paint:
    glossy: bool = option(False, "Whether it shines.")
    layers: int = option(2, "Layers.", above=0)


SHAPE, PAINT = Chosen("shape", {"sphere": Sphere, "cube": Cube}, "What it is."), Chosen("", {"all": Paint})
app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
@speaks_shell
@taking(SHAPE, PAINT, after="name")
def run(name: Annotated[str, typer.Argument()], size: Annotated[int, typer.Option()] = 3, **given):
    """Make one."""
    print(name, size, SHAPE.made(given), PAINT.made(given, layers=5))


def called(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_what_was_chosen_is_made_with_what_was_given():
    made = Sphere(threads=None)  # as many as there are, where the shell says nothing
    assert called("a").stdout.strip() == f"a 3 {made} {Paint(False, 5)}"
    done = called("a", "--shape", "cube", "--edge", 2, "--points", 3, "--kind", "open", "--size", 4, "--glossy")
    assert done.stdout.strip() == f"a 4 {Cube(3, 2.0, 'open')} {Paint(True, 5)}"
    assert str(Sphere(threads=2)) in called("a", "--threads", 2).stdout
    assert str(Paint(False, 1)) in called("a", "--layers", 1).stdout


def test_options_of_another_class_are_refused_by_the_name_of_their_owner():
    # The default of the other class is as foreign as any value.
    for arguments, flag in ((["--edge", "2"], "edge"), (["--shape", "cube", "--radius", "1.0"], "radius")):
        found = called("a", *arguments).exception
        assert isinstance(found, InputError)
        assert f"`--{flag}` is an option of --shape {'cube' if flag == 'edge' else 'sphere'}, not of" in str(found)


def test_several_owners_are_told():
    three = Chosen("shape", {"a": Sphere, "b": Cube, "c": Sphere, "d": Paint})
    given = dict.fromkeys(three.flags)
    with pytest.raises(InputError, match="`--points` is an option of --shape a, b or c, not of d; drop it"):
        three.made({**given, "shape": "d", "points": 2})


def test_values_out_of_range_are_told_by_the_option_of_the_shell():
    assert str(called("a", "--points", 1).exception).startswith("`--points` must be at least 2, got 1")
    assert called("a", "--kind", "flat").exit_code == 2
    assert str(called("a", "--kind", "open").exception).startswith("`--kind` must be one of full, hollow, got 'open'")


def test_help_says_defaults_and_owners():
    text = " ".join(called("--help").stdout.split())
    for said in (
        "What it is. [default: sphere]",
        "Points [sphere 4, cube 8].",
        "sphere: Radius, Å [1.0].",
        "cube: edge, Å.",
        "sphere: threads [all there are].",
        "sphere: Kind. cube: Kind of cube [full].",
        "full|hollow|open",
    ):
        assert said in text, said
    assert "--hidden" not in text
    assert text.index("--shape") < text.index("--layers") < text.index("--size")


def test_an_option_has_one_type():
    @dataclass(frozen=True)
    class Other:
        radius: int = option(1, "Radius.")

    with pytest.raises(TypeError, match="--radius must have one type"):
        Chosen("shape", {"sphere": Sphere, "other": Other})
