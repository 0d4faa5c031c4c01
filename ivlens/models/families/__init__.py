"""Model families: a Hugging Face config -> the TransformerLens config that represents it faithfully, or a refusal.

The family is decided by the config's ``model_type``, never by a folder's or a hub repository's name. Each file holds
the families of one kind, each of them one row: its facts, its weights, and their names in Hugging Face.

To add a family, start from the one that is most like it:

- RMS norms, rotary positions, a gated MLP, as in Llama and Qwen: ``rms_gated.py``
- the same with scaled embeddings, soft caps or norms after attention and MLP, as in Gemma: ``gemma.py``
- norms of what attention and MLP write, or of all queries and keys at once, as in OLMo: ``olmo.py``
- learned positions, layer norms and biases, as in GPT-2, GPT-Neo and OPT: ``learned_positions.py``
- attention and MLP side by side, rotary positions on part of a head, as in GPT-NeoX, GPT-J and Phi: ``parallel.py``
- ALiBi instead of positions, as in BLOOM: ``alibi.py``

1. Add a tiny config to ``CASES`` in ``tests/models/test_families.py``, which fails until the family is represented:
   logits are compared with Hugging Face's in float32 and float64, padded and not.
2. Write ``facts(config)``: the fields of TransformerLens' config, from the Hugging Face config. Use ``require`` or
   ``refuse`` for each switch that TransformerLens does not compute: it is refused, never approximated.
3. Write its ``Naming``: what each weight is called in Hugging Face. Its weights are converted by TransformerLens, or by
   ``own_weights`` where that conversion is wrong.
4. Add the row ``"model_type": Family(architecture, facts, weights, naming)`` to the file's ``FAMILIES``.
"""

from typing import Any

from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS

from ...errors import UnsupportedError
from ..engines import HookedTransformerConfig
from . import alibi, gemma, learned_positions, olmo, parallel, rms_gated
from .family import Family as Family
from .family import refuse

FAMILIES: dict[str, Family] = {
    model_type: family
    for kind in (learned_positions, parallel, alibi, rms_gated, gemma, olmo)
    for model_type, family in kind.FAMILIES.items()
}


def family_of(config: Any) -> Family:
    """The family of a Hugging Face config.

    Raises:
        UnsupportedError: its ``model_type`` is not represented here.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedError(
            f"a model of one of the families {', '.join(sorted(FAMILIES))}",
            f"model_type {config.model_type!r}",
            "engine='auto' or 'bridge' takes any decoder, for all but training",
        )
    return family


def is_represented(config: Any) -> bool:
    """Whether the family, and every feature that the config switches on, is represented here."""
    try:
        hooked_config(config)
    except UnsupportedError:
        return False
    return True


def hooked_config(config: Any, **overrides: Any) -> HookedTransformerConfig:
    """The TransformerLens config of a Hugging Face config, weights unprocessed.

    Raises:
        UnsupportedError: the family, or a feature that the config switches on, is not represented here.
    """
    family = family_of(config)
    facts = family.facts(config)
    if facts["act_fn"] not in SUPPORTED_ACTIVATIONS:
        refuse(config, "activation function", facts["act_fn"], ", ".join(SUPPORTED_ACTIVATIONS))
    facts |= {"original_architecture": family.architecture, "init_weights": False, "d_vocab": config.vocab_size}
    return HookedTransformerConfig.from_dict(facts | overrides)
