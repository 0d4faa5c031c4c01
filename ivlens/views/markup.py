"""HTML from the templates in ``templates/``; every value is escaped unless it is marked as HTML."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..checks import checked
from ..text import escaped


def _shown(value: object) -> Markup:
    """A value as a page shows it: HTML unchanged, anything else as escaped text."""
    return value if isinstance(value, Markup) else Markup(_escaped(str(value)))


def _escaped(text: str) -> str:
    """Text escaped for HTML, a number and its error on one line."""
    return escaped(text).replace(" ± ", "\u00a0±\u00a0")


TEMPLATES = Environment(
    loader=PackageLoader("ivlens.views"), autoescape=True, undefined=StrictUndefined, finalize=_shown,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip


def render(template: str, **values: Any) -> str:
    """A template filled with values; HTML values come as ``Markup``, all others are escaped."""
    return TEMPLATES.get_template(template).render(**values)


@checked
def prose(text: str) -> str:
    """Plain text as escaped HTML paragraphs, split at its empty lines.

    Args:
        text: any text.

    Returns:
        Paragraphs as HTML.

    Example:
        >>> iv.views.prose("a < b")
        '<p>a &lt; b</p>'
    """
    return "\n".join(f"<p>{_escaped(part.strip())}</p>" for part in text.split("\n\n") if part.strip())
