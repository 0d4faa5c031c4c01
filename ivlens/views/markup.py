"""HTML out of the templates in ``templates/``: every value is escaped there unless it is marked as HTML."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..checks import checked
from ..text import escaped


def _shown(value: object) -> Markup:
    """What stands for a value in a page: HTML as it is, anything else as text, character by character."""
    return value if isinstance(value, Markup) else Markup(escaped(str(value)))


TEMPLATES = Environment(
    loader=PackageLoader("ivlens.views"), autoescape=True, undefined=StrictUndefined, finalize=_shown,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip


def render(template: str, **values: Any) -> str:
    """A template filled with values; those that are HTML come as ``Markup``, all others are escaped."""
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
    return "\n".join(f"<p>{escaped(part.strip())}</p>" for part in text.split("\n\n") if part.strip())
