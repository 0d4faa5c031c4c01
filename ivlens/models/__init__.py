"""The only door to TransformerLens: sources -> HookedTransformer, hook names, runs, last-token streams."""

from transformer_lens import HookedTransformer as HookedTransformer

from .hooks import attn_out_name as attn_out_name
from .hooks import cached_passes as cached_passes
from .hooks import hooked as hooked
from .hooks import last_token as last_token
from .hooks import pattern_name as pattern_name
from .hooks import resid_pre_name as resid_pre_name
from .hooks import z_name as z_name
from .loading import load_model as load_model
from .packaged import cache_folder as cache_folder
from .provenance import check_alike as check_alike
from .provenance import check_fits as check_fits
from .provenance import model_facts as model_facts
from .provenance import provenance as provenance
from .readout import answer_scores as answer_scores
from .readout import strongest_wrong as strongest_wrong
from .runs import Rows as Rows
from .runs import answer_logits as answer_logits
from .runs import batches as batches
from .runs import check_length as check_length
from .runs import final_logits as final_logits
from .runs import final_residual as final_residual
from .runs import padded as padded
from .runs import unembedding as unembedding
from .sweeps import sweep_additions as sweep_additions
from .sweeps import sweep_heads as sweep_heads
from .writes import head_writes as head_writes
