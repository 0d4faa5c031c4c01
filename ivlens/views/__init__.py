"""Records as figures, tables and pages; nothing here runs a model, and nothing is shown unless the caller shows it."""

from .attention import Html as Html
from .attention import attention_view as attention_view
from .benchmark import benchmark_panels as benchmark_panels
from .checkpoints import alignment_by_layer as alignment_by_layer
from .checkpoints import carried_and_made as carried_and_made
from .checkpoints import checkpoint_heatmap as checkpoint_heatmap
from .checkpoints import checkpoint_summary as checkpoint_summary
from .checkpoints import checkpoint_trajectories as checkpoint_trajectories
from .checkpoints import head_change_maps as head_change_maps
from .checkpoints import patching_maps as patching_maps
from .checkpoints import recovery_bars as recovery_bars
from .checkpoints import repair_fractions as repair_fractions
from .checkpoints import repair_tradeoff as repair_tradeoff
from .checkpoints import reverting_curves as reverting_curves
from .checkpoints import reverting_maps as reverting_maps
from .checkpoints import write_comparison_report as write_comparison_report
from .checkpoints import write_repair_report as write_repair_report
from .conditions import comparison_bars as comparison_bars
from .continual import continual_curves as continual_curves
from .continual import continual_matrix as continual_matrix
from .continual_report import write_continual_report as write_continual_report
from .differences import difference_intervals as difference_intervals
from .documents import page as page
from .documents import save_figure as save_figure
from .documents import write_page as write_page
from .explorer import CheckpointExplorer as CheckpointExplorer
from .explorer import ExplorerWidget as ExplorerWidget
from .growth import growth_panels as growth_panels
from .heads import head_heatmap as head_heatmap
from .heads import head_heatmaps as head_heatmaps
from .markup import prose as prose
from .positions import position_heatmap as position_heatmap
from .report import write_report as write_report
from .sections import add_section as add_section
from .stability import stability_curve as stability_curve
from .stability import stability_heatmap as stability_heatmap
from .sweep import sweep_heatmap as sweep_heatmap
from .tables import frame_table as frame_table
from .tradeoff import tradeoff_scatter as tradeoff_scatter
from .training import training_curves as training_curves
from .transfer import transfer_heatmaps as transfer_heatmaps

__all__ = [
    "CheckpointExplorer",
    "ExplorerWidget",
    "Html",
    "add_section",
    "alignment_by_layer",
    "attention_view",
    "benchmark_panels",
    "carried_and_made",
    "checkpoint_heatmap",
    "checkpoint_summary",
    "checkpoint_trajectories",
    "comparison_bars",
    "continual_curves",
    "continual_matrix",
    "difference_intervals",
    "frame_table",
    "growth_panels",
    "head_change_maps",
    "head_heatmap",
    "head_heatmaps",
    "page",
    "patching_maps",
    "position_heatmap",
    "prose",
    "recovery_bars",
    "repair_fractions",
    "repair_tradeoff",
    "reverting_curves",
    "reverting_maps",
    "save_figure",
    "stability_curve",
    "stability_heatmap",
    "sweep_heatmap",
    "tradeoff_scatter",
    "training_curves",
    "transfer_heatmaps",
    "write_comparison_report",
    "write_continual_report",
    "write_page",
    "write_repair_report",
    "write_report",
]


def __dir__() -> list[str]:
    return __all__
