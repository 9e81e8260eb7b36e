"""TeX to MathML, which browsers draw by themselves."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\s*\\\[(?P<block>.*?)\\\]\s*)</\1>', re.DOTALL
)

_FUNCTION = re.compile(r"\\(log|ln)(?=\s+[a-zA-Z0-9\\])")


def to_mathml(page: str) -> str:
    """The page with what arithmatex marked as formulas in MathML."""
    return _FORMULA.sub(_convert, page)


def _convert(found: "re.Match[str]") -> str:
    block = found["block"] is not None
    tex = html.unescape(found["block"] if block else found["inline"]).strip()
    # The converter sets no space between a function's name and its argument.
    tex = _FUNCTION.sub(r"\\\1\\,", tex)
    return str(convert(tex, display="block" if block else "inline"))
