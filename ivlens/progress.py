"""Progress bars of plain text: on stderr at a terminal; in a notebook an output that can be read without a kernel."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

from tqdm import tqdm

BETWEEN = 0.5  # seconds until a notebook shows a bar, and between two of its states

_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


@contextmanager
def no_bars() -> Iterator[None]:
    """Within this context no bar is shown: what a click starts has no output of its own in a notebook."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


class ProgressBar(tqdm):
    """tqdm's bar; in a notebook text in an output of its own, where tqdm's widget would be lost when it is reopened.

    The finished bar stays in a notebook; a bar within another is a line below it, and goes with its end. Anywhere but
    at a terminal or in a notebook nothing is shown.
    """

    _open: list["ProgressBar"] = []  # noqa: RUF012  (in this notebook, the outermost first)

    def __init__(self, *args: Any, **options: Any) -> None:
        hidden = options.pop("disable", False) or _hidden.get()
        self.publish: Any = None if hidden else _publisher()
        self.output: str | None = None
        if self.publish is not None:
            options |= {"disable": False, "gui": True, "mininterval": BETWEEN, "delay": BETWEEN}
            self._open.append(self)
        keywords: dict[str, Any] = {"disable": hidden or None} | options
        super().__init__(*args, **keywords)

    def display(self, msg: str | None = None, pos: int | None = None) -> Any:
        """Show the bar's state; in a notebook with those of all open bars, in the output of the outermost."""
        if self.publish is None:
            return super().display(msg, pos)
        self._open[0]._show([str(bar) for bar in self._open])
        return True

    def close(self) -> None:
        """End the bar; in a notebook the output of the outermost keeps its last state."""
        super().close()
        if any(bar is self for bar in self._open):
            first = self._open[0]
            self._open[:] = [bar for bar in self._open if bar is not self]  # tqdm's bars of one position are equal
            if first.output is not None:
                first._show([str(bar) for bar in self._open or [self]])

    def _show(self, lines: list[str]) -> None:
        update = self.output is not None
        self.output = self.output or uuid4().hex
        text = {"text/plain": "\n".join(lines)}
        self.publish(text, {"progress": True}, transient={"display_id": self.output}, update=update)


def _publisher() -> Any:
    """What a notebook's kernel shows outputs with; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython else None
    return shell.display_pub.publish if hasattr(shell, "kernel") else None
