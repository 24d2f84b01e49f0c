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
    words = '<code>code</code> &amp; <strong>bold</strong>, <em>any</em>: <a href="page.md">a link</a>.'
    assert f"<p>Two lines\nof {words}</p>" in html
    assert "<li>one <code>key</code>\ngoes on</li>\n<li>two</li>" in html
    assert '<th scope="col">method</th>' in html
    assert '<th scope="row"><code>F-F</code></th>\n<td>1 &lt; 2</td>\n<td></td>\n<td></td>\n</tr>' in html
    assert html.count("<img") == html.count("<figure>") == 1 and "missing" not in html
    assert "<p><figure>" not in html and html.count('<div class="scroll"><table>') == 1
