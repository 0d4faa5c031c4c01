"""Guided training: the objective's terms, what a step shows, the loop, its resumable state."""

from .config import LoRA as LoRA
from .config import TrainingConfig as TrainingConfig
from .guidance import PRESETS as PRESETS
from .guidance import Guidance as Guidance
from .lesson import rehearsal_prompts as rehearsal_prompts
from .loop import fine_tune as fine_tune
from .monitor import Ability as Ability
from .monitor import measure as measure
