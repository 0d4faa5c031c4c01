"""What a model is to ivlens: a HookedTransformer, or a ``Bridge`` over a model of Hugging Face.

TransformerLens has HookedTransformer up to version 3; with a later one a stand-in takes its name, which nothing is an
instance of.
"""

from abc import ABC
from typing import TYPE_CHECKING

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer as HookedTransformer

    from .bridge import Bridge

    Model = HookedTransformer | Bridge
else:
    try:
        from transformer_lens import HookedTransformer
    except ImportError:

        class HookedTransformer:
            """Stands in where TransformerLens has no HookedTransformer."""

    class Model(ABC):  # noqa: B024  (a name for two classes)
        """A model that ``load_model`` gives, of either engine."""

    Model.register(HookedTransformer)


def has_hooked() -> bool:
    """Whether TransformerLens has HookedTransformer."""
    return HookedTransformer.__module__ != __name__


def check_hooked() -> None:
    """Raise UnsupportedError where TransformerLens has no HookedTransformer."""
    if not has_hooked():
        raise UnsupportedError(
            "TransformerLens 3, which has HookedTransformer", "a later version, which has not",
            "load the model with engine='bridge', or pip install 'transformer-lens<4'",
        )  # fmt: skip
