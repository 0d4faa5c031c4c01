"""Guided training: learn a new task and keep old abilities.

Read ``objective`` (the mathematics), ``terms`` (one class per term, how to add one) and ``weight_terms``, ``config``
(presets and settings), ``step`` (one step's passes) and ``loop`` (``fine_tune``); ``sampler`` draws prompts,
``teacher`` is the frozen base, ``trainable`` the parameters with their optimiser, ``penalties`` the losses on them
(``fisher``, ``earlier_adapters``), ``self_written`` the texts of the base, ``state``, ``log`` and ``kept`` a run's
files, ``monitor`` the abilities; ``_continual`` (``continual``) learns a sequence of tasks, ``continual_config`` says
how, and has its ablations, ``sequence_files`` keeps it.
"""

from ._continual import continual as continual
from .config import DEFAULT_PRESET as DEFAULT_PRESET
from .config import PRESETS as PRESETS
from .config import Guidance as Guidance
from .config import LoRA as LoRA
from .config import TrainingConfig as TrainingConfig
from .continual_config import ContinualConfig as ContinualConfig
from .continual_config import ablations as ablations
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
from .terms import PreventativeSteering as PreventativeSteering
from .terms import ProgressiveVector as ProgressiveVector
from .terms import Rehearsal as Rehearsal
from .terms import Replay as Replay
from .terms import SelfRehearsal as SelfRehearsal
from .weight_terms import EWC as EWC
from .weight_terms import EWCOnOwnTexts as EWCOnOwnTexts
from .weight_terms import FrozenLayers as FrozenLayers
from .weight_terms import Interpolation as Interpolation
from .weight_terms import L2ToBase as L2ToBase
from .weight_terms import OLoRA as OLoRA
from .weight_terms import WeightAverage as WeightAverage
