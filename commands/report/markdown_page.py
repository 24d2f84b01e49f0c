"""A page of ours in Markdown as HTML: headings, paragraphs, lists, tables and pictures, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from commands.report import page

PICTURE = re.compile(r"!\[(.*?)\]\((.*?)\)")
INLINE = (
    (re.compile(r"`(.+?)`"), r"<code>\1</code>"),
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"(?<![\w*])\*(\w[^*]*?)\*(?!\w)"), r"<em>\1</em>"),
    (re.compile(r"\[(.+?)\]\((.+?)\)"), r'<a href="\2">\1</a>'),
)


def render_markdown(text: str, folder: Path) -> str:
    """HTML of the text. folder: where its pictures are; those that are missing are left out."""
    return "\n".join(_render_block(block, folder) for block in _split_blocks(text))


def _split_blocks(text: str) -> Iterator[list[str]]:
    """Lines between empty ones."""
    for block in re.split(r"\n\s*\n", text.strip()):
        if lines := block.splitlines():
            yield lines


def _render_block(lines: list[str], folder: Path) -> str:
    first = lines[0]
    if found := re.match(r"(#+) (.*)", first):
        level = min(len(found[1]), 4)
        return f"<h{level}>{_render_inline(found[2])}</h{level}>"
    if first.startswith("| "):
        head, _, *rows = ([_render_inline(cell) for cell in line.strip("| ").split(" | ")] for line in lines)
        return page.render_table(head, [[*row, *[""] * (len(head) - len(row))] for row in rows])
    if found := PICTURE.fullmatch(first):
        path = folder / found[2]
        return page.render_picture(path, found[1]) if path.exists() else ""
    if first.startswith("- "):
        items = re.split(r"^- ", "\n".join(lines), flags=re.MULTILINE)[1:]
        return f"<ul>{''.join(f'<li>{_render_inline(item)}</li>' for item in items)}</ul>"
    return f"<p>{_render_inline(' '.join(lines))}</p>"


def _render_inline(text: str) -> str:
    html = escape(text.strip(), quote=False)
    for pattern, made in INLINE:
        html = pattern.sub(made, html)
    return html
