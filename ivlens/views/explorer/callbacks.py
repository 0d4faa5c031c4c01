"""The widget's event handling: which thread runs an action and where its errors are shown; rows and columns."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ipywidgets as ipw

from ...errors import IvlensError
from .html import announcement


class Callbacks:
    """Runs the actions of clicks and changes, except the widget's own changes; errors go to the status line.

    A kernel may receive clicks in other threads while the notebook is executing. The model's hooks and the effects are
    not thread-safe, so everything runs in the thread that made this object, through its event loop where a click comes
    from another thread.
    """

    def __init__(self) -> None:
        self.status = ipw.HTML()
        self.filling = False
        self.thread = threading.get_ident()
        try:
            self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self.loop = None

    def on(self, control: ipw.Widget, action: Callable[[], None]) -> None:
        """Run ``action`` when the button is clicked, or the control's value changes."""
        if isinstance(control, ipw.Button):
            control.on_click(lambda _: self.run(action))
        else:
            control.observe(lambda _: self.run(action), "value")

    def run(self, action: Callable[[], None]) -> None:
        """Clear the status line and run ``action``: now, or as soon as the thread that made this object is free."""
        if self.loop is not None and threading.get_ident() != self.thread:
            self.loop.call_soon_threadsafe(self.run, action)
        elif not self.filling:
            self.status.value = ""
            with self.errors_shown():
                action()

    @contextmanager
    def fill(self) -> Iterator[None]:
        """Within this context, changes of controls run nothing."""
        before, self.filling = self.filling, True
        try:
            yield
        finally:
            self.filling = before

    @contextmanager
    def errors_shown(self) -> Iterator[None]:
        """Within this context, an ivlens error is shown in the status line; any other error is shown and raised."""
        try:
            yield
        except IvlensError as error:
            self.status.value = announcement(str(error), "wrong")
        except Exception as error:
            self.status.value = announcement(f"{type(error).__name__}: {error}", "wrong")
            raise


def stack(*children: ipw.Widget, **layout: str) -> ipw.VBox:
    """Widgets one under another."""
    return ipw.VBox(children, layout=layout)


def row(*children: ipw.Widget, **layout: str) -> ipw.HBox:
    """Widgets side by side, in further rows where they do not fit."""
    return ipw.HBox(children, layout={"flex_flow": "row wrap", "align_items": "center"} | layout)


def columns(*children: ipw.Widget, **layout: str) -> ipw.HBox:
    """Panels side by side, their tops aligned, one under another where they do not fit."""
    return row(*children, align_items="flex-start", **layout)
