"""Records as figures, tables and pages; nothing here computes with a model, and nothing shows itself unasked."""

from .attention import Html as Html
from .attention import attention_view as attention_view
from .comparison import comparison_bars as comparison_bars
from .export import save_figure as save_figure
from .heatmap import head_heatmap as head_heatmap
from .heatmap import head_heatmaps as head_heatmaps
from .page import page as page
from .page import prose as prose
from .page import write_page as write_page
from .stability import stability_curve as stability_curve
from .sweep import sweep_heatmap as sweep_heatmap
from .tables import frame_table as frame_table
from .training import tradeoff_scatter as tradeoff_scatter
from .training import training_curves as training_curves
from .transfer import transfer_heatmaps as transfer_heatmaps

__all__ = [
    "Html",
    "attention_view",
    "comparison_bars",
    "frame_table",
    "head_heatmap",
    "head_heatmaps",
    "page",
    "prose",
    "save_figure",
    "stability_curve",
    "sweep_heatmap",
    "tradeoff_scatter",
    "training_curves",
    "transfer_heatmaps",
    "write_page",
]
