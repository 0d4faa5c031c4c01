"""Indirect effects of heads: the exact sweep, the plain loop as its oracle, attribution, and how far methods agree.

A head's indirect effect on a corrupted prompt is the change of the answer's metric when the head's output at the last
prompt token is replaced by its mean over clean prompts (2310.15213, eq. 4; 2406.12227, eq. 3). ``position_effects``
patches heads at other tokens too.
"""

from .agreement import compare_methods as compare_methods
from .indirect import indirect_effects as indirect_effects
from .locate import load_or_compute_vector as load_or_compute_vector
from .locate import locate_heads as locate_heads
from .patching import patched_scores as patched_scores
from .positions import position_effects as position_effects
