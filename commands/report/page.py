"""Elements of a self-contained HTML page: tables, embedded files, templates. The style is in page.css.

A page opens without a network and without scripts, in light and dark. Arguments called `text` are escaped; `html`,
`svg` and the cells of a table are inserted as they are.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Formatter
from typing import Any

from commands.report.figure import format_theme

MEDIA = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4", ".jpg": "image/jpeg", ".webp": "image/webp"}


def encode_file(path: Path | str) -> str:
    """A file as a data: address. ValueError for a suffix that is not in MEDIA."""
    path = Path(path)
    if path.suffix not in MEDIA:
        raise ValueError(f"{path}: a page shows files with the suffix {', '.join(MEDIA)}")
    return f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def render_picture(path: Path | str, text: str) -> str:
    """An image file on white paper in its printed size; `text` is its description."""
    from PIL import Image

    with Image.open(path) as image:
        width = round(image.width * 96 / image.info.get("dpi", (96, 96))[0])
    return f'<figure><img class="paper" width="{width}" alt="{escape(text)}" src="{encode_file(path)}"></figure>'


def render_videos(paths: Sequence[Path], texts: Sequence[str]) -> str:
    """Videos or animated images that play in the page, each above its caption."""
    figures = []
    for path, text in zip(paths, map(escape, texts), strict=True):
        player = f'<img src="{encode_file(path)}" alt="{text}">'
        if path.suffix == ".mp4":
            player = f'<video src="{encode_file(path)}" autoplay loop muted playsinline controls></video>'
        figures.append(f"<figure>{player}<figcaption>{text}</figcaption></figure>")
    return f'<div class="videos">{"".join(figures)}</div>'


def render_drawing(svg: str, text: str) -> str:
    """An inline SVG with its caption."""
    return f'<figure class="wide">{svg}<figcaption>{escape(text)}</figcaption></figure>'


def render_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], text: str = "", groups: Sequence[tuple[str, int]] = ()
) -> str:
    """A table of html cells; the first cell of a row is its heading.

    text: the caption. groups: (html, number of columns) of a second row above the heads, from the left.
    """
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    spans = "".join(f'<th scope="colgroup" colspan="{span}">{cell}</th>' for cell, span in groups)
    top = (f'<tr class="group">{spans}</tr>' if groups else "") + f"<tr>{titles}</tr>"
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for name, *cells in rows
    )
    caption = f"<caption>{escape(text)}</caption>" if text else ""
    return f'<div class="scroll"><table>{caption}<thead>{top}</thead><tbody>{body}</tbody></table></div>'


def render_facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values, both as text."""
    return f'<dl class="facts">{"".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)}</dl>'


def render_section(text: str, *html: str) -> str:
    """A heading and the content of its section."""
    return f"<section><h2>{escape(text)}</h2>{''.join(html)}</section>"


def render_note(text: str) -> str:
    """A paragraph in small type."""
    return f'<p class="note">{escape(text)}</p>'


class _Html(str):
    """Markup, which `_EscapingFormatter` inserts as it is."""


class _EscapingFormatter(Formatter):
    """str.format for templates of HTML: escapes every field but _Html."""

    def format_field(self, value: Any, format_spec: str) -> str:
        return value if isinstance(value, _Html) else escape(super().format_field(value, format_spec))


def _read_text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def fill_template(name: str, texts: Mapping[str, Any], html: Mapping[str, str]) -> str:
    """The template of that name in this folder with its fields filled in, as by `str.format`."""
    fields = {**texts, **{name: _Html(value) for name, value in html.items()}}
    return _EscapingFormatter().vformat(_read_text(name), (), fields)


def render_page(text: str, html: str) -> str:
    """The whole page: its title, and its content."""
    style = format_theme() + _read_text("page.css")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(text)}</title><style>{style}</style></head>\n<body><main>{html}</main></body></html>\n"
    )
