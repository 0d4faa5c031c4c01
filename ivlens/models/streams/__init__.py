"""Last-token streams: many interventions at the last prompt token, all of them in one pass over the layers.

A causal model patched at the last prompt token changes nothing before it. So the prompt's earlier positions, its
*prefix*, are run once; only the positions from the last prompt token on, a *stream*, are run for each patch. A stream
patched in layer l equals the clean one below l: it forks off the clean stream there, by the head's difference through
W_O, and from then on all streams run together as rows of one matrix. A vector added to the residual stream forks a
stream in the same way, before its layer. The numbers are those of one forward pass per intervention (``ivlens.effects``
has that plain loop over heads as the oracle), for about the arithmetic of a few forward passes.

Rows: first the prompts' prefixes, then the streams one after another, the clean one first; in a stream each prompt has
one row for its last token and one for each answer token but the last. Forks are new rows at the end. Nothing is
padded, so ragged prompts do not touch each other.

``layout``: which row is which. ``attention``: streams attend to their prompt's shared prefix and to themselves.
``run``: the pass over the layers, where streams fork. ``readout``: an answer's scores off the final streams.
``sweep``: all heads patched in turn, or vectors added in many ways. ``memory``: how many rows fit.
"""

from .memory import rows_that_fit as rows_that_fit
from .readout import answer_scores as answer_scores
from .readout import strongest_wrong as strongest_wrong
from .run import Forks as Forks
from .run import run_streams as run_streams
from .sweep import check_streamable as check_streamable
from .sweep import sweep_additions as sweep_additions
from .sweep import sweep_heads as sweep_heads
from .sweep import sweep_parts as sweep_parts
