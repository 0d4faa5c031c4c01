"""What a saved notebook shows of a widget: a picture in an output of its own, hidden while the widget is alive.

JupyterLab shows an error for a widget without its kernel, whatever else its output holds; so the picture comes as an
output after it, with a style that hides one of the two. nbconvert, nbviewer, VS Code and notebooks that are not
trusted take the widget's HTML instead, which is empty, and show the picture too.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable

import ipywidgets as ipw
from IPython.core.getipython import get_ipython
from IPython.display import display
from markupsafe import Markup

from ..markup import render

COLAB = "In Colab, the explorer needs: from google.colab import output; output.enable_custom_widget_manager()"
SOON = 0.3  # seconds in which further changes make one picture


class Snapshot:
    """The picture of a widget, up to date with the widgets that it watches.

    Args:
        widget: what is displayed; it gets a class by which the style finds out whether it is alive.
        draw: makes the picture, as HTML.
        watched: widgets whose ``value`` the picture shows.
    """

    def __init__(self, widget: ipw.DOMWidget, draw: Callable[[], str], watched: Iterable[ipw.Widget]) -> None:
        self.widget, self.draw = widget, draw
        self.name = f"ivlens-{widget.model_id}"
        self.displayed, self.due = False, False
        widget.add_class(self.name)
        for each in watched:
            each.observe(lambda _: self.refresh(), "value")

    def display(self) -> None:
        """Display the widget, and the picture after it."""
        if "google.colab" in sys.modules:
            print(COLAB)
        view = self.widget._repr_mimebundle_()
        display({"text/html": "", **view}, raw=True)
        display(self._bundle(), raw=True, display_id=self.name)
        shell = get_ipython()
        if not self.displayed and shell is not None:
            shell.events.register("post_run_cell", lambda _: self._update())
        self.displayed = True

    def refresh(self) -> None:
        """Bring the picture up to date: soon, or when the running code ends."""
        if not self.displayed or self.due:
            return
        self.due = True
        try:
            asyncio.get_running_loop().call_later(SOON, self._update)
        except RuntimeError:
            self._update()

    def _update(self) -> None:
        if self.due:
            self.due = False
            display(self._bundle(), raw=True, display_id=self.name, update=True)

    def _bundle(self) -> dict[str, str]:
        picture = Markup(self.draw())
        html = render("snapshot.html", name=self.name, picture=picture)
        return {"text/html": html, "text/plain": type(self.widget).__name__}
