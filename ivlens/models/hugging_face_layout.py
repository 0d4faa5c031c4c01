"""A model's weights under their names in Hugging Face: which part each belongs to, and which are linear layers."""

import copy
from collections.abc import Callable
from functools import singledispatch
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import UnsupportedError
from .engines import HookedTransformer
from .families import family_of
from .naming import hugging_face_weights
from .part_weights import WeightPart, weight_parts


class WeightLayout(NamedTuple):
    """The part of a model that a weight belongs to; whether it is a linear layer's matrix, and that as [in, out]."""

    part: WeightPart
    linear: bool = False
    in_first: bool = False


@singledispatch
def weight_layout(model: Any) -> dict[str, WeightLayout]:
    """The layout of every weight, by its name in Hugging Face; linear layers are those of blocks."""
    naming, parts = family_of(model.ivlens_config).naming, weight_parts(model)
    linear = tuple(f".{module}.weight" for module in naming.projections())
    layout = {}
    for ours, theirs in naming.names(model.cfg).items():
        matrix = theirs.startswith(naming.stem) and theirs.endswith(linear)
        layout[theirs] = WeightLayout(parts[ours], matrix, matrix and naming.conv1d)
    return layout


@singledispatch
def hugging_face_state(model: Any) -> dict[str, Tensor]:
    """All weights by their names in Hugging Face; views of the model's own where possible."""
    return hugging_face_weights(model, family_of(model.ivlens_config).naming, tied=False)


@singledispatch
def written_parts(model: Any) -> dict[str, WeightPart]:
    """The part of every weight by its name in the files of a saved model, which need not be its name in memory."""
    return {name: each.part for name, each in weight_layout(model).items()}


def tied_embedding(model: Any) -> Callable[[Tensor], Tensor] | None:
    """What makes the embedding of the unembedding where these are one weight, of which a HookedTransformer has two."""
    config = getattr(model, "ivlens_config", None)
    if not isinstance(model, HookedTransformer) or config is None:
        return None
    naming = family_of(config).naming
    return naming.tied_to if config.tie_word_embeddings and naming.ties(model) else None


@singledispatch
def layer_path(model: Any, layer: int) -> str:
    """The path of a layer in Hugging Face's ``base_model``, without the head: "layers.3", "h.3"."""
    return f"{family_of(hugging_face_config(model)).naming.stem.partition('.')[2]}{layer}"


@singledispatch
def hugging_face_config(model: Any) -> Any:
    """A copy of the config of Hugging Face that the model was made from.

    Raises:
        UnsupportedError: ``load_model`` did not make the model.
    """
    if not hasattr(model, "ivlens_config"):
        raise UnsupportedError("a model made by load_model", f"a {type(model).__name__} of other origin")
    return copy.deepcopy(model.ivlens_config)
