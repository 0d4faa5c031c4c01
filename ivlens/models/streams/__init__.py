"""Last-token streams: many interventions at the last prompt token, all of them in one pass over the layers.

A causal model patched at the last prompt token changes nothing before it. So the prompt's earlier positions, its
*prefix*, are run once; only the positions from the last prompt token on, a *stream*, are run for each patch. A stream
patched in layer l equals the clean one below l, and forks off it there: as a copy with another value at the last prompt
token. It forks at one of three points of a block:

- entering it, where the residual stream x becomes x + v, or the value of another model; likewise after the last block;
- after attention, where a head's z becomes z', which changes the sum of what the heads write by (z' - z) W_O; or where
  what a head writes becomes w, which changes the sum by w - z W_O, whatever W_O the value w was written by. A norm of
  attention's output comes after that sum. Or all that attention adds is replaced, after the norm;
- after the MLP, where what it adds is replaced: the stream is then the clean one between attention and MLP, and the
  value. Where the MLP reads the block's input, in parallel with attention, forks of attention share its output.

From its fork on, all streams run together as rows of one matrix. The numbers are those of one forward pass per
intervention (``ivlens.effects`` has that plain loop as the oracle), for about the arithmetic of a few forward passes.

Rows: first the prompts' prefixes, then the streams one after another, the clean one first; in a stream each prompt has
one row for its last token and one for each answer token but the last. Forks are new rows at the end. Rows are not
padded, and prompts that begin alike share the rows of their beginning.

``tree``: texts that begin alike. ``layout``: which row is which. ``attention``: prefixes attend within their texts,
streams to their prompt's prefix and to themselves. ``block``: the rest of a block. ``run``: the pass over the layers,
where streams fork. ``once``: a pass in which nothing forks. ``decode``: the tokens after prompts. ``readout``: an
answer's scores off the final streams.
``sweep``: parts replaced in turn, all heads for example, or vectors added in many ways. ``positions``: parts replaced
at other tokens than the last. ``memory``: how many rows fit.
What forks in a layer, ``models/forks.py``, is the same for a Bridge.
"""

from .decode import decoder as decoder
from .decode import decodes_once as decodes_once
from .memory import rows_that_fit as rows_that_fit
from .once import Recorded as Recorded
from .once import answer_streams as answer_streams
from .once import recorded_meanwhile as recorded_meanwhile
from .once import recorded_points as recorded_points
from .once import run_once as run_once
from .once import runs_edited_once as runs_edited_once
from .once import runs_once as runs_once
from .positions import check_position_streams as check_position_streams
from .positions import sweep_positions as sweep_positions
from .readout import answer_scores as answer_scores
from .readout import strongest_wrong as strongest_wrong
from .run import run_streams as run_streams
from .sweep import check_streamable as check_streamable
from .sweep import sweep_additions as sweep_additions
from .sweep import sweep_heads as sweep_heads
from .sweep import sweep_parts as sweep_parts
