"""The widgets of ``explore``: a head map to click with a vector at work, and a map of tasks by checkpoints."""

from .checkpoints import CheckpointExplorer as CheckpointExplorer
from .widget import ExplorerWidget as ExplorerWidget
