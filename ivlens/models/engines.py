"""What a model is to ivlens: a HookedTransformer, or a ``Bridge`` over a model of Hugging Face.

TransformerLens has HookedTransformer up to version 3; with a later one stand-ins take the names, of which nothing is
an instance.
"""

from abc import ABC
from typing import TYPE_CHECKING, TypeAlias

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer as HookedTransformer
    from transformer_lens.components import GatedMLP as GatedMLP
    from transformer_lens.components import RMSNorm as RMSNorm
    from transformer_lens.components import TransformerBlock as TransformerBlock
    from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig as HookedTransformerConfig

    from .bridge import Bridge

    Model: TypeAlias = HookedTransformer | Bridge
else:
    try:
        from transformer_lens import HookedTransformer
        from transformer_lens.components import GatedMLP, RMSNorm, TransformerBlock
        from transformer_lens.config.hooked_transformer_config import HookedTransformerConfig
    except ImportError:

        class HookedTransformer:
            """Stands in where TransformerLens has no HookedTransformer, as the next ones do."""

        class GatedMLP:
            """Stands in."""

        class RMSNorm:
            """Stands in."""

        class TransformerBlock:
            """Stands in."""

        class HookedTransformerConfig:
            """Stands in."""

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


def check_training() -> None:
    """Raise UnsupportedError where TransformerLens has no HookedTransformer, which training needs."""
    if not has_hooked():
        raise UnsupportedError(
            "a HookedTransformer for training, which is not yet done on a Bridge",
            "TransformerLens 4 or later, which has none", "pip install 'transformer-lens<4'",
        )  # fmt: skip


def only_hooked(model: Model, doing: str) -> HookedTransformer:
    """The model, which must be a HookedTransformer for what is ``doing``.

    Raises:
        UnsupportedError: it is a ``Bridge``.
    """
    if not isinstance(model, HookedTransformer):
        raise UnsupportedError(
            f"a HookedTransformer for {doing}, which is not yet done on a Bridge", repr(model),
            "load it with engine='hooked' if its family is represented; else change it with transformers or peft, and "
            "compare_checkpoints",
        )  # fmt: skip
    return model
