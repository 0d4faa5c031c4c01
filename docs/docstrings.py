"""Docstrings as the site reads them: an ``Example:`` becomes the section that is shown as code."""

import re
from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """``Example:`` of the Google style is an admonition to griffe; ``Examples:`` is a section of code."""

    def on_object(self, *, obj: Object, **options: Any) -> None:
        """Rename the section in an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
