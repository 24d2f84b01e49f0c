"""Pages in Markdown as HTML."""

from __future__ import annotations

from PIL import Image

from commands.report.markdown_page import render_markdown

TEXT = """# Objectives on reacher

Two lines
of `code` & **bold**, *any*: [a link](page.md).

- one `key`
  goes on
- two

| method | any |  | held |
| --- | --- | --- | --- |
| `F-F` | 1 < 2 |  |  |

![a plot](plot.png)

![missing](none.png)
"""


def test_what_our_pages_hold_becomes_html(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plot.png")
    html = render_markdown(TEXT, tmp_path)
    assert "<h1>Objectives on reacher</h1>" in html
    assert '<p>Two lines of <code>code</code> &amp; <strong>bold</strong>, <em>any</em>: <a href="page.md">' in html
    assert "<ul><li>one <code>key</code>\n  goes on</li><li>two</li></ul>" in html
    assert '<th scope="row"><code>F-F</code></th><td>1 &lt; 2</td><td></td><td></td></tr>' in html
    assert html.count("<img") == 1 and "missing" not in html
