import re
from html.parser import HTMLParser

import numpy as np
from matplotlib.figure import Figure

from ase_uq.report.bands import Bands, draw_bands
from ase_uq.report.style import MODEL
from ase_uq.report.svg import inline_svg


def drawing(scale=1.0):
    figure = Figure(figsize=(4, 3))
    ax = figure.add_subplot()
    ax.plot(np.linspace(0, 1, 50), scale * np.linspace(1.01761, 1.01768, 50), color=MODEL)
    ax.set_yticks([scale * 1.01763], ["1.01763"])
    return figure


def test_a_figure_refers_to_nothing_outside():
    svg = inline_svg(drawing(), name="a", description="a line")
    assert svg.startswith("<svg")
    assert "http" not in svg
    assert set(re.findall(r"url\((.)", svg)) <= {"#"}


def test_numbers_in_labels_keep_their_digits():
    assert "1.01763" in inline_svg(drawing(), name="a", description="a line")


def test_coordinates_are_short():
    tags = re.findall(r"<path[^>]*>", inline_svg(drawing(), name="a", description="a line"))
    assert max(len(digits) for tag in tags for digits in re.findall(r"\d\.(\d+)", tag)) <= 2


def test_figures_share_no_identifier_and_every_reference_is_met():
    page = "".join(inline_svg(drawing(), name=name, description="a line") for name in ("a", "b"))
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))
    references = re.findall(r'href="#([^"]+)"', page) + re.findall(r"url\(#([^)]+)\)", page)
    assert references
    assert set(references) <= set(identifiers)


def test_colours_are_variables_of_the_page():
    svg = inline_svg(drawing(), name="a", description="a line")
    assert "stroke: var(--model)" in svg
    assert MODEL not in svg


def test_the_description_is_the_accessible_name():
    class Title(HTMLParser):
        inside, text = False, ""

        def handle_starttag(self, tag, attrs):
            self.inside = tag == "title"

        def handle_data(self, data):
            self.text += data if self.inside else ""

        def handle_endtag(self, tag):
            self.inside = False

    svg = inline_svg(drawing(), name="a", description="angle < 90° & more")
    parser = Title()
    parser.feed(svg)
    assert parser.text == "angle < 90° & more"
    assert 'role="img" aria-labelledby="a-title"' in svg


def test_the_same_figure_gives_the_same_text():
    first, second = (inline_svg(drawing(), name="a", description="a line") for _ in range(2))
    assert first == second


def test_hatches_belong_to_their_figure_and_take_the_colours_of_the_page():
    figure = drawing()
    draw_bands(figure.axes[0], np.array([0.2, 0.5]), np.ones(2), Bands(np.ones(2), 2 * np.ones(2), np.full(2, True)))
    svg = inline_svg(figure, name="a", description="a band")
    pattern = re.search(r'<pattern id="a-([^"]+)".*?</pattern>', svg, re.DOTALL)
    assert f"url(#a-{pattern.group(1)})" in svg
    assert "var(--model)" in pattern.group(0)
    assert "#" not in pattern.group(0)
