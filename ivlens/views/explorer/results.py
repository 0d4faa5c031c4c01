"""Computed results that look stale, and are said to be, until their successors are computed."""

from collections.abc import Iterator
from contextlib import contextmanager

import ipywidgets as ipw

from .html import announcement

STALE = "ivlens-stale"
RECOMPUTING = "recomputing what is dimmed …"


class Results:
    """A panel's pieces of computed HTML, with a ``sign`` in words that is shown while any of them is stale."""

    def __init__(self, *pieces: ipw.HTML) -> None:
        self.pieces, self.sign = pieces, ipw.HTML()
        self.sign.add_class("ivlens-sign")

    def mark(self, *pieces: ipw.HTML) -> None:
        """Mark the pieces (none: all of the panel's) as stale."""
        for piece in pieces or self.pieces:
            piece.add_class(STALE)
        self._say()

    @contextmanager
    def recomputing(self, *pieces: ipw.HTML) -> Iterator[None]:
        """Within this context the pieces (none: all) are stale; they are emptied if it fails."""
        pieces = pieces or self.pieces
        self.mark(*pieces)
        try:
            yield
        except BaseException:  # an interrupt too leaves numbers of what was before
            for piece in pieces:
                piece.value = ""
            raise
        finally:
            for piece in pieces:
                piece.remove_class(STALE)
            self._say()

    def _say(self) -> None:
        stale = any(STALE in piece._dom_classes and piece.value for piece in self.pieces)
        self.sign.value = announcement(RECOMPUTING) if stale else ""
