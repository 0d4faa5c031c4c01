"""Many checkpoints measured and compared with their base: forgetting diagnosed, task by task."""

from .compare import compare_checkpoints as compare_checkpoints
from .config import CheckpointConfig as CheckpointConfig
from .verdict import VerdictRule as VerdictRule
