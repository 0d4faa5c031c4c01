"""Any decoder: a Hugging Face model as it is, under TransformerLens' hook names.

A family that ``families`` represents becomes a HookedTransformer, whose streams are fast. Any other causal language
model, and a model object that must not be copied, becomes a ``Bridge``: the model's own modules compute, and torch
hooks, which are there only while something is read or edited, sit where TransformerLens has its hook points. No code
is specific to a family. What is used is found in the model and tried when it is loaded: what does not hold is refused
by name.

``decoder``: the layers, attention and output projections of a model. ``model``: the ``Bridge``. ``sweep``: many
interventions at the last prompt token, over the key-value cache. ``rows``: how they lie, in one sequence or in a batch.
``prefixes``: prompts run once, and what follows them. ``readout``: logits and scores of what leaves the last layer.
``trial``: the check at loading. ``loop``: steering one pass at a time, where the sweep is refused. ``decoding``: greedy
decoding. ``export``: writing its weights. ``protocol``: what else ``ivlens.models`` does with a model, done with a
``Bridge``.
"""

from . import decoding as decoding
from . import export as export
from . import prefixes as prefixes
from . import protocol as protocol
from .model import Bridge as Bridge
from .trial import check_bridge as check_bridge
