"""The widget of ``explore``: a head map to click, what the clicked head does, and the chosen heads' vector at work."""

from .widget import ExplorerWidget as ExplorerWidget
