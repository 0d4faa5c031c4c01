"""Checkpoints measured and compared with their base, to diagnose forgetting task by task."""

from ._repair import RepairConfig as RepairConfig
from ._repair import repair as repair
from .compare import compare_checkpoints as compare_checkpoints
from .config import CheckpointConfig as CheckpointConfig
from .gating import Gate as Gate
from .gating import gate as gate
from .handover import check_adapter as check_adapter
from .handover import export_repaired_adapter as export_repaired_adapter
from .handover import mergekit_config as mergekit_config
from .handover import mergekit_names as mergekit_names
from .handover import repaired_model as repaired_model
from .patching import patch_checkpoints as patch_checkpoints
from .rejudging import rejudge as rejudge
from .reverting import RevertConfig as RevertConfig
from .reverting import revert_weights as revert_weights
from .verdict import VerdictRule as VerdictRule
