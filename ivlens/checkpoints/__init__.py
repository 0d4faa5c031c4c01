"""Checkpoints measured and compared with their base, to diagnose forgetting task by task."""

from .compare import compare_checkpoints as compare_checkpoints
from .config import CheckpointConfig as CheckpointConfig
from .rejudging import rejudge as rejudge
from .verdict import VerdictRule as VerdictRule
