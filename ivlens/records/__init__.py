"""Results as frozen dataclasses that save, load and become frames; they know no model and no plot."""

from .checkpoints import MATRICES as MATRICES
from .checkpoints import CheckpointComparison as CheckpointComparison
from .checkpoints import HeadReading as HeadReading
from .checkpoints import HiddenStates as HiddenStates
from .checkpoints import WeightChange as WeightChange
from .effects import METRICS as METRICS
from .effects import Head as Head
from .effects import HeadEffects as HeadEffects
from .effects import HeadMap as HeadMap
from .effects import HeadMeans as HeadMeans
from .effects import Stability as Stability
from .effects import UniversalEffects as UniversalEffects
from .effects import heads_by_effect as heads_by_effect
from .recall import recall as recall
from .scores import Evaluation as Evaluation
from .scores import standard_error as standard_error
from .scores import wilson_interval as wilson_interval
from .steering import Comparison as Comparison
from .steering import SteeringSweep as SteeringSweep
from .steering import TransferMatrix as TransferMatrix
from .store import Record as Record
from .store import write_atomically as write_atomically
from .store import write_text as write_text
from .training import TrainingRun as TrainingRun
