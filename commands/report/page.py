"""Pieces of a self-contained HTML page: tables, embedded files, the frame and the style around them.

A page opens without a network and without scripts, in light and dark; everything is inline. What these
functions take as `text` they escape; `html`, `svg` and the cells of a table they put in as they are.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from commands.report.figure import format_theme

MEDIA = {
    ".png": "image/png",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
}
CSS = """
*{box-sizing:border-box}
html{color-scheme:light dark}
body{margin:0;background:var(--page);color:var(--ink);
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:1000px;margin:0 auto;padding:40px 24px 64px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 6px}
h2{font-size:1.2rem;margin:48px 0 10px;padding-top:14px;border-top:1px solid var(--grid)}
p{max-width:75ch;margin:8px 0}
.note,figcaption,.ci,caption{color:var(--muted);font-size:.86rem}
.headline{font-size:1.15rem;margin:20px 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(160px,1fr));gap:14px 24px;margin:24px 0 0}
.tiles dt{color:var(--muted);font-size:.86rem}
.tiles dd{margin:0;font-size:1.6rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tiles dd small{display:block;font-size:.82rem;color:var(--muted)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:12px 0;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:4px}
th,td{padding:6px 9px;text-align:right;vertical-align:top;white-space:nowrap;
 border-bottom:1px solid var(--grid)}
thead th{color:var(--muted);font-weight:600;vertical-align:bottom}
thead tr:last-child th{border-bottom:1px solid var(--muted)}
.group th{border-bottom:0;padding-bottom:0;text-align:center}
th:first-child,td:first-child{text-align:left;padding-left:0}
tbody th{font-weight:600}
th .ci,td .ci{display:block;font-size:.8rem;font-weight:400}
.swatch{display:inline-block;width:10px;height:10px;border-radius:50%;margin-right:8px}
figure{margin:14px 0}
figure svg{display:block;width:100%;height:auto;overflow:visible}
figure svg text{font-family:inherit!important}
figure img.paper{max-width:100%;height:auto;background:#fdfdfc;border-radius:6px}
@media (prefers-color-scheme: dark){figure img.paper{padding:10px}}
.videos{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:20px}
.videos figure{margin:0}
.videos video,.videos img{display:block;width:100%;height:auto;border-radius:6px}
.videos figcaption{margin-top:6px}
dl.facts{display:grid;grid-template-columns:minmax(130px,max-content) 1fr;gap:6px 24px;margin:12px 0}
dl.facts dt{color:var(--muted)}
dl.facts dd{margin:0;overflow-wrap:anywhere}
details{margin:12px 0}
summary{cursor:pointer}
@media (max-width:560px){main{padding:24px 14px 48px}dl.facts{grid-template-columns:1fr;gap:0 0}
 dl.facts dd{margin-bottom:10px}figure.wide{overflow-x:auto}figure.wide svg{min-width:560px}}
@media print{main{max-width:none;padding:0}h2{break-after:avoid}figure{break-inside:avoid}}
"""


def encode_file(path: Path | str) -> str:
    """A file as a data: address; ValueError for a kind that a page cannot show."""
    path = Path(path)
    if path.suffix not in MEDIA:
        raise ValueError(f"{path}: a page shows files of kind {', '.join(MEDIA)}")
    return f"data:{MEDIA[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def render_picture(path: Path | str, text: str) -> str:
    """An image file as a figure on white paper, in the size it was drawn for; `text` describes it."""
    from PIL import Image

    with Image.open(path) as image:
        width = round(image.width * 96 / image.info.get("dpi", (96, 96))[0])
    return f'<figure><img class="paper" width="{width}" alt="{escape(text)}" src="{encode_file(path)}"></figure>'


def render_video(path: Path | str, text: str) -> str:
    """A video or animated image that plays in the page, with its caption."""
    if Path(path).suffix == ".mp4":
        shown = f'<video src="{encode_file(path)}" autoplay loop muted playsinline controls></video>'
    else:
        shown = f'<img src="{encode_file(path)}" alt="{escape(text)}">'
    return f"<figure>{shown}<figcaption>{escape(text)}</figcaption></figure>"


def render_drawing(svg: str, text: str) -> str:
    """An inline SVG with its caption."""
    return f'<figure class="wide">{svg}<figcaption>{escape(text)}</figcaption></figure>'


def render_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], text: str = "", groups: Sequence[tuple[str, int]] = ()
) -> str:
    """A table of html cells; the first of each row is its heading.

    text: what stands above it. groups: (html, columns) that span the heads, from the left.
    """
    over = "".join(f'<th scope="colgroup" colspan="{span}">{cell}</th>' for cell, span in groups)
    top = (f'<tr class="group">{over}</tr>' if groups else "") + "<tr>"
    top += "".join(f'<th scope="col">{cell}</th>' for cell in head) + "</tr>"
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>' for row in rows
    )
    above = f"<caption>{escape(text)}</caption>" if text else ""
    return f'<div class="scroll"><table>{above}<thead>{top}</thead><tbody>{body}</tbody></table></div>'


def render_facts(rows: Iterable[tuple[str, str]]) -> str:
    """Names and what they are, as text."""
    return f'<dl class="facts">{"".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)}</dl>'


def render_section(text: str, *html: str) -> str:
    """A heading and what stands under it."""
    return f"<section><h2>{escape(text)}</h2>{''.join(html)}</section>"


def render_paragraph(text: str, kind: str = "") -> str:
    """One paragraph; kind: headline or note."""
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{escape(text)}</p>"


def render_page(text: str, html: Iterable[str]) -> str:
    """The whole page with its title."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(text)}</title><style>{format_theme()}{CSS}</style></head>\n"
        f"<body><main>{chr(10).join(html)}</main></body></html>\n"
    )
