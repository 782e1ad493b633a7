"""A Python-Markdown extension that turns formulas into MathML while the site is built.

Browsers draw MathML themselves, so the site needs neither a script nor a font from another host for it.
It works behind `pymdownx.arithmatex` with `generic`, which finds the formulas between dollar signs.
"""

from __future__ import annotations

from html import unescape
from typing import Any
from xml.etree.ElementTree import Element

from latex2mathml.converter import convert
from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor

DELIMITERS = {r"\(": "inline", r"\[": "block"}
AFTER_INLINE = 15  # Python-Markdown finds formulas inside paragraphs at priority 20


class Formulas(Treeprocessor):
    """Replaces the text of every formula that arithmatex has marked."""

    def run(self, root: Element) -> None:
        """Replace each `\\(...\\)` and `\\[...\\]` by its `<math>` element, in place."""
        for element in root.iter():
            if element.get("class") == "arithmatex" and element.text:
                element.text = self.md.htmlStash.store(mathml(element.text))


def mathml(marked: str) -> str:
    """Return the `<math>` element of a formula between its delimiters, as arithmatex leaves it."""
    formula = unescape(marked[2:-2])  # a formula on lines of its own arrives escaped
    # The library knows the environment by its name outside of formulas only; both are drawn alike.
    formula = formula.replace("{aligned}", "{align*}")
    return convert(formula, display=DELIMITERS[marked[:2]])


class MathML(Extension):
    """The extension that `zensical.toml` names."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 (the name is the library's)
        """Register `Formulas` behind the inline patterns."""
        md.treeprocessors.register(Formulas(md), "mathml", AFTER_INLINE)


def makeExtension(**options: Any) -> MathML:  # noqa: N802 (the name is the library's)
    """Return the extension: Python-Markdown looks for a function of this name."""
    return MathML(**options)
