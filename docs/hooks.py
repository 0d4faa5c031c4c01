"""Hooks of the site's build: notebooks and studies as pages, formulas as MathML, the data dictionary as tables."""

import posixpath
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
MOUNTED = {"notebooks": ("*.ipynb",), "figures": ("**/README.md", "**/*.png")}
COLUMNS = "<!-- columns -->"
FENCED, CODE = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE), re.compile(r"(`[^`\n]+`)")
DISPLAY, INLINE = re.compile(r"\$\$(.+?)\$\$", re.DOTALL), re.compile(r"\$([^$\n]+)\$")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks and the studies, which stand beside ``docs/`` in the repository, before any plugin looks."""
    for folder, patterns in MOUNTED.items():
        for path in sorted(path for pattern in patterns for path in (ROOT / folder).glob(pattern)):
            files.append(File(path.relative_to(ROOT).as_posix(), str(ROOT), config.site_dir, use_directory_urls=False))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn what a code host shows as it is into what the site shows."""
    if page.file.src_uri.endswith(".ipynb"):
        return markdown
    markdown = markdown.replace(COLUMNS, column_tables())
    parts = FENCED.split(markdown)  # every second one is a fenced block
    parts[::2] = [_prose(part, page.file.src_uri, files) for part in parts[::2]]
    return "".join(parts)


def column_tables() -> str:
    """The data dictionary of ``ivlens/records/columns.py`` as one table per frame."""
    spec = spec_from_file_location("columns", ROOT / "ivlens" / "records" / "columns.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return "\n".join(
        _frame_table(name, columns, module.OPTIONAL.get(name, ())) for name, columns in module.FRAMES.items()
    )


def _frame_table(name: str, columns: dict[str, Any], optional: Any) -> str:
    rows = [
        f"| `{column}`{' (optional)' if column in optional else ''} | {kind} | {unit} | {meaning} |"
        for column, (kind, unit, meaning) in columns.items()
    ]
    return "\n".join([f"## `{name}`", "", "| column | type | unit | meaning |", "|---|---|---|---|", *rows, ""])


def _prose(text: str, source: str, files: Files) -> str:
    """Text between fenced blocks: its formulas as MathML, its links as they lead inside the site."""
    parts = CODE.split(LINK.sub(lambda found: _link(found, source, files), text))
    parts[::2] = map(_formulas, parts[::2])
    return "".join(parts)


def _formulas(text: str) -> str:
    text = DISPLAY.sub(lambda found: _mathml(found[1], "block"), text)
    return INLINE.sub(lambda found: _mathml(found[1], "inline"), text)


def _mathml(latex: str, display: str) -> str:
    return latex2mathml.converter.convert(" ".join(latex.split()), display=display)


def _link(found: re.Match[str], source: str, files: Files) -> str:
    """The link as it leads inside the site; its text alone where the site has no such page."""
    mark, text, target = found.groups()
    if re.match(r"[a-z]+:|#", target):
        return found[0]
    path, _, anchor = target.partition("#")
    folder = posixpath.dirname(source)
    here = posixpath.normpath(posixpath.join(folder, path))
    from_docs = posixpath.normpath(posixpath.join("docs", folder, path))
    for page in (here, from_docs, here.removeprefix("docs/")):
        if page in files.src_uris:
            return f"{mark}[{text}]({posixpath.relpath(page, folder or '.')}{f'#{anchor}' if anchor else ''})"
    return found[0] if mark else text
