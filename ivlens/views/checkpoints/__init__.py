"""A base model and its checkpoints: curves, maps, recovery, patching, weights, repair, one figure of all, reports."""

from .curves import alignment_by_layer as alignment_by_layer
from .curves import checkpoint_trajectories as checkpoint_trajectories
from .maps import checkpoint_heatmap as checkpoint_heatmap
from .maps import head_change_maps as head_change_maps
from .patching import patching_maps as patching_maps
from .recovery import recovery_bars as recovery_bars
from .repair import repair_fractions as repair_fractions
from .repair import repair_tradeoff as repair_tradeoff
from .repair_report import write_repair_report as write_repair_report
from .report import write_comparison_report as write_comparison_report
from .reverting import carried_and_made as carried_and_made
from .reverting import reverting_curves as reverting_curves
from .reverting import reverting_maps as reverting_maps
from .summary import checkpoint_summary as checkpoint_summary
