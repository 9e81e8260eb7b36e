"""TeX to MathML, which browsers draw by themselves."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\s*\\\[(?P<block>.*?)\\\]\s*)</\1>', re.DOTALL
)

# What browsers space as mathematics is set: names are no operators, "is drawn from" is one.
_REPAIRS = (
    (re.compile(r"<mo>([A-Z])</mo>"), r'<mi mathvariant="normal">\1</mi>'),
    (re.compile(r"<mo>([A-Za-z]{2,})</mo>"), r"<mi>\1</mi>"),
    (re.compile(r"<mi>&#x0007E;</mi>"), "<mo>&#x0223C;</mo>"),
)

# A function's name, after what multiplies it and before its argument.
_MULTIPLIED = re.compile(r"(?<=[\w}])\s+(?=\\(?:log|ln)\b)")
_FUNCTION = re.compile(r"\\(log|ln)(?=\s+[a-zA-Z0-9\\])")


def to_mathml(page: str) -> str:
    """The page with what arithmatex marked as formulas in MathML."""
    return _FORMULA.sub(_convert, page)


def _convert(found: "re.Match[str]") -> str:
    block = found["block"] is not None
    tex = html.unescape(found["block"] if block else found["inline"]).strip()
    # The converter sets no space around a function's name.
    tex = _FUNCTION.sub(r"\\\1\\,", _MULTIPLIED.sub(r"\\, ", tex))
    mathml = str(convert(tex, display="block" if block else "inline"))
    for pattern, right in _REPAIRS:
        mathml = pattern.sub(right, mathml)
    return mathml
