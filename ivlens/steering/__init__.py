"""Adding and removing: steering with vectors, sweeps, controls, ablation of heads."""

from .ablate import ablate as ablate
from .compare import compare_conditions as compare_conditions
from .controls import mean_difference as mean_difference
from .controls import random_heads_vector as random_heads_vector
from .controls import random_vector as random_vector
from .steer import steer as steer
from .sweep import steering_sweep as steering_sweep
