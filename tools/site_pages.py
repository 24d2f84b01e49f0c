"""Hook of mkdocs.yml: pages made from files outside docs/, and links that leave docs/.

LOG.md and CHANGELOG.md stay in the root, where a reader of the repository looks for them. Every package gets a page
of its public API. A link to one of these files leads to its page; a link to a source file becomes its name in code.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("world_model", "planners", "envs", "data", "commands")
PAGES = {"LOG.md": "log/index.md", "CHANGELOG.md": "changelog.md", "README.md": "index.md"}
NO_RUN = re.compile(r"^(```\w+) no-run$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(#[^)\s]+)?\)")


def find_packages() -> list[str]:
    """Every package of the source by its dotted name, parents before children."""
    folders = [path.parent for top in PACKAGES for path in sorted((ROOT / top).rglob("__init__.py"))]
    return [".".join(folder.relative_to(ROOT).parts) for folder in folders]


def find_modules(package: str) -> list[str]:
    """The modules directly in a package."""
    folder = ROOT.joinpath(*package.split("."))
    return [f"{package}.{path.stem}" for path in sorted(folder.glob("*.py")) if not path.stem.startswith("__")]


def write_api_page(package: str) -> str:
    """Markdown of one package's API: what it defines itself, then its modules."""
    source = (ROOT.joinpath(*package.split(".")) / "__init__.py").read_text(encoding="utf-8")
    kinds = (ast.ClassDef, ast.FunctionDef)
    own = [node.name for node in ast.parse(source).body if isinstance(node, kinds) and not node.name.startswith("_")]
    members = own or "false"  # not what it imports, which stands below
    blocks = [f"::: {package}\n    options:\n      heading_level: 1\n      members: {members}"]
    return "\n\n".join(blocks + [f"::: {module}" for module in find_modules(package)]) + "\n"


def write_api_index() -> str:
    """Markdown of the list of packages."""
    lines = ["# API", "", "One page a package, written from its docstrings.", ""]
    for package in find_packages():
        first = (ROOT.joinpath(*package.split(".")) / "__init__.py").read_text(encoding="utf-8").split('"""')
        summary = first[1].split("\n\n")[0].replace("\n", " ") if len(first) > 1 else ""
        lines.append(f"- [`{package}`]({package}.md): {summary}")
    return "\n".join(lines) + "\n"


def replace_link(match: re.Match[str], source: str) -> str:
    """A link of the page `source` (a path from the root) as the site needs it."""
    text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    page = f"docs/{PAGES[path]}" if path in PAGES else path
    if ":" in target or (page == path and source.startswith("docs/") and path.startswith("docs/")):
        return match.group(0)
    if page.startswith("docs/"):
        here = posixpath.dirname(f"docs/{PAGES[source]}" if source in PAGES else source)
        return f"[{text}]({posixpath.relpath(page, here)}{anchor})"
    return f"`{path}`" if (ROOT / path).exists() and text.strip("`") in path else match.group(0)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of packages and experiments into the navigation."""
    nav: list[Any] = config.nav or []
    for entry in nav:
        if "API" in entry:
            entry["API"] += [{name: f"api/{name}.md"} for name in find_packages()]
        if "Experiments" in entry:
            entry["Experiments"] += [f"log/{path.name}" for path in sorted((ROOT / "docs" / "log").glob("*.md"))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that stand in no file of docs/."""
    pages = {f"api/{name}.md": write_api_page(name) for name in find_packages()}
    pages["api/index.md"] = write_api_index()
    for source in ("LOG.md", "CHANGELOG.md"):
        text = (ROOT / source).read_text(encoding="utf-8")
        pages[PAGES[source]] = LINK.sub(lambda match, source=source: replace_link(match, source), text)
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Lead links that leave docs/ to the pages of their files; drop the mark of shell blocks that no test runs."""
    markdown = NO_RUN.sub(r"\1", markdown)
    if page.file.src_uri in PAGES.values() and not (ROOT / "docs" / page.file.src_uri).exists():
        return markdown  # done in on_files
    return LINK.sub(lambda match: replace_link(match, f"docs/{page.file.src_uri}"), markdown)
