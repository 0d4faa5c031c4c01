"""Guided training: learn a new task and keep old abilities.

Read ``objective`` (the mathematics), ``terms`` (one class per term, how to add one), ``config`` (presets and settings),
``step`` (one step's passes) and ``loop`` (``fine_tune``); ``sampler`` draws prompts, ``teacher`` is the frozen base,
``trainable`` the parameters with their optimiser, ``state`` and ``log`` a run's files, ``monitor`` the abilities.
"""

from .config import DEFAULT_PRESET as DEFAULT_PRESET
from .config import PRESETS as PRESETS
from .config import Guidance as Guidance
from .config import LoRA as LoRA
from .config import TrainingConfig as TrainingConfig
from .loop import fine_tune as fine_tune
from .monitor import Ability as Ability
from .monitor import measure as measure
from .monitor import with_vector as with_vector
from .sampler import rehearsal_prompts as rehearsal_prompts
from .term import Batch as Batch
from .term import Term as Term
from .terms import HeadConsistency as HeadConsistency
from .terms import KLToBase as KLToBase
from .terms import KLToGuidedTeacher as KLToGuidedTeacher
from .terms import L2ToBase as L2ToBase
from .terms import ProgressiveVector as ProgressiveVector
from .terms import Rehearsal as Rehearsal
from .terms import Replay as Replay
