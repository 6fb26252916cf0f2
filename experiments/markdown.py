"""Markdown as a part of the page: its own tags stay text, its images are the page's."""

import html
import re
from collections.abc import Callable, Iterator
from typing import Any

SCROLL = '<div class="scroll" tabindex="0" role="region" aria-label="table">'
# The label of a column is repeated in each of its cells.
_LONGEST_LABEL = 200


def folded(text: str) -> tuple[str, list[tuple[str, str]]]:
    """A report without its sections of the third level, and those with their titles."""
    head, *others = re.split(r"^### ", text, flags=re.MULTILINE)
    parts = (part.partition("\n") for part in others)
    return head, [(title, content) for title, _, content in parts]


def images(text: str) -> list[tuple[str, str]]:
    """Source and alternative text of every image, in order."""
    found = (token for token in _inner(text) if token.type == "image")
    return [(str(token.attrGet("src")), token.content) for token in found]


def rendered(
    text: str,
    shift: int,
    link: Callable[[str], tuple[str, str]],
    image: Callable[[str], tuple[dict[str, str], str]],
) -> str:
    """Markdown as HTML, whose own tags stay text.

    Args:
        text: Markdown with tables.
        shift: by which headings are deeper.
        link: from a target to the page's and a note behind it; no target, no link.
        image: from a source to the attributes that show it, the page's own source among
            them, and what its alternative text ends with.
    """
    parser = _parser()
    tokens = list(_blocks(parser.parse(text), shift))
    for token in tokens:
        if token.children:
            token.children = list(_inline(token.children, link, image))
    return parser.renderer.render(tokens, parser.options, {})


def _blocks(tokens, shift):
    """Headings deeper, tables that scroll by themselves, cells with their column."""
    for i, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + shift)}"
        elif token.type == "table_open":
            yield _token("html_inline", SCROLL)
            labels = []
        elif token.type == "tr_open":
            column = iter(labels)
        elif token.type == "th_open":
            token.attrSet("scope", "col")
            labels.append(tokens[i + 1].content[:_LONGEST_LABEL])
        elif token.type == "td_open":
            token.attrSet("data-label", next(column))
        yield token
        if token.type == "table_close":
            yield _token("html_inline", "</div>")


def _inline(tokens, link, image):
    for token in tokens:
        note = ""
        if token.type == "link_open":
            target, behind = link(str(token.attrGet("href")))
            token.attrs = {"href": target} if target else {}
            token.tag = tag = "a" if target else "span"
        elif token.type == "link_close":
            token.tag, note = tag, behind
        elif token.type == "image":
            attributes, ending = image(str(token.attrGet("src")))
            token.attrs |= attributes
            token.children.append(_token("text", ending))
        yield token
        if note:
            small = f' <small class="commit">{html.escape(note)}</small>'
            yield _token("html_inline", small)


def _inner(text: str) -> Iterator[Any]:
    """What is within paragraphs, headings and cells."""
    for block in _parser().parse(text):
        yield from block.children or ()


def _token(kind: str, content: str):
    from markdown_it.token import Token

    return Token(kind, "", 0, content=content)


def _parser():
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": False}).enable("table")
