"""Records as figures, tables and pages; nothing here computes with a model, and nothing shows itself unasked."""

from .attention import Html as Html
from .attention import attention_view as attention_view
from .heatmap import head_heatmap as head_heatmap
from .heatmap import head_heatmaps as head_heatmaps
from .page import page as page
from .page import prose as prose
from .page import write_page as write_page
from .tables import frame_table as frame_table

__all__ = [
    "Html",
    "attention_view",
    "frame_table",
    "head_heatmap",
    "head_heatmaps",
    "page",
    "prose",
    "write_page",
]
