"""A page in Markdown as HTML that holds its own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.report import page

if TYPE_CHECKING:
    from markdown_it.token import Token


def render_markdown(text: str, folder: Path) -> str:
    """HTML of the text, which holds no HTML itself. folder: where its pictures are; those that are missing are left
    out."""

    from markdown_it import MarkdownIt  # slow to import

    def render_image(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
        path = folder / str(tokens[index].attrs["src"])
        return page.render_picture(path, tokens[index].content) if path.exists() else ""

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("image", render_image)
    parser.add_render_rule("table_open", lambda *_: '<div class="scroll"><table>\n')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")
    tokens = parser.parse(text)
    _prepare_tables(tokens)
    _unwrap_pictures(tokens)
    return str(parser.renderer.render(tokens, parser.options, {}))


def _prepare_tables(tokens: Sequence[Token]) -> None:
    """Make the first cell of each row its heading."""
    for index, token in enumerate(tokens):
        if token.type == "th_open":
            token.attrSet("scope", "col")
        if token.type == "td_open" and tokens[index - 1].type == "tr_open":
            token.tag = tokens[index + 2].tag = "th"  # after it come its content and its end
            token.attrSet("scope", "row")


def _unwrap_pictures(tokens: Sequence[Token]) -> None:
    """Take the paragraph from around a picture that stands alone: a figure may not be inside one."""
    for before, token, after in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if token.type == "inline" and [child.type for child in token.children or []] == ["image"]:
            before.hidden = after.hidden = True
