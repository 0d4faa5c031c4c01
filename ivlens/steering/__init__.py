"""Adding and removing: steering with vectors, sweeps, controls, ablation of heads."""

from ._ablate import ablate as ablate
from ._compare import Setting as Setting
from ._compare import compare_conditions as compare_conditions
from ._generate import generate as generate
from ._steer import SITES as SITES
from ._steer import Steering as Steering
from ._steer import Tokens as Tokens
from ._steer import steer as steer
from ._sweep import TriedOnLayers as TriedOnLayers
from ._sweep import layer_grid as layer_grid
from ._sweep import steering_sweep as steering_sweep
from .controls import controlled as controlled
from .controls import mean_difference as mean_difference
from .controls import random_heads_vector as random_heads_vector
from .controls import random_vector as random_vector
from .controls import steered as steered
