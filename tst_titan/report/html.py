"""What all pages share: templates, links to files, and Matplotlib's SVGs inside a page."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from tst_titan.compare.drawing.style import CSS_VARIABLES
from tst_titan.errors import UserError
from tst_titan.text import GAP, amount, duration

_HERE = Path(__file__).parent
_ATTRIBUTE = re.compile(r'( (?:d|x|y|points)=")([^"]*)(")')
_LONG = re.compile(r"(\.\d\d)\d+")


def relative_link(target: Path | str, page: Path) -> str:
    """Link from ``page`` to a file, with forward slashes, valid wherever the results folder is moved to."""
    return Path(os.path.relpath(target, page.parent)).as_posix()


def template(name: str, page: Path) -> Template:
    """A template whose links are relative to the page."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals |= {
        "link": partial(relative_link, page=page),
        "css": Markup(_HERE.joinpath("page.css").read_text(encoding="utf-8")),
        "js": Markup(_HERE.joinpath("chart.js").read_text(encoding="utf-8")),
        "GAP": GAP,
    }
    environment.filters |= {"whole": "{:,}".format, "amount": amount, "duration": duration}
    return environment.get_template(name)


def inline_svg(path: Path, prefix: str, alt: str) -> Markup:
    """The SVG of a figure as an element of a page: no clashing ids, no style that leaks, colours of the page's theme.

    Args:
        path: an SVG written by ``tst_titan.compare.drawing.style.save``.
        prefix: unique in the page; put before every id.
        alt: what the figure shows, read out by screen readers.

    Raises:
        UserError: the file cannot be read or holds no SVG.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): draw the figures again") from error
    start = text.find("<svg")
    if start < 0:
        raise UserError(f"{path}: holds no <svg> element; draw the figures again")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[start:], flags=re.DOTALL)
    # Matplotlib's rule for "*" would apply to the whole page; page.css has it for figures alone.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    wanted = set(re.findall(r"(?:href=\"|url\()#([^\")]+)", text))
    text = re.sub(
        r' id="([^"]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in wanted else "", text
    )
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    # A hundredth of a point is finer than any screen or printer draws.
    text = _ATTRIBUTE.sub(lambda found: found[1] + _LONG.sub(r"\1", found[2]) + found[3], text)
    text = re.sub(r">\s+<", "><", text)
    for colour, variable in CSS_VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    head, rest = text.split(">", 1)
    head = re.sub(r' (?:width|height)="[^"]*"', "", head)
    return Markup(f'{head} role="img" aria-label="{escape(alt)}">{rest}')
