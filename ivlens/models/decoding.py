"""Greedy decoding: a prompt runs once, then each token is one pass that goes on from the key-value cache.

Where streams represent the model, and no hooks are active but edits of last prompt tokens, prompts share what they have
in common at their beginning (``streams.decode``). Else prompts of a batch are padded on the left, so that all of them
end together. Whether a model computes a padded prompt, and a cached one, as it computes the prompt alone is tried once,
on a short text: where padding changes the logits only prompts of one length share a batch, and where the cache does
every token runs the whole prompt.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, singledispatch
from itertools import groupby
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import FallbackWarning, reason
from ..vocabulary import Ids, TokenizedPrompt
from .attached import runs_in_parts
from .engines import HookedTransformer, Model
from .hooks import without_edits
from .precision import TOLERANCE
from .runs import answer_logits, next_logits, overflow_shown, padded, padded_ids
from .streams import decoder, decodes_once

NextLogits = Callable[[Int[Tensor, "batch pos"], Int[Tensor, "batch all"]], Float[Tensor, "batch vocab"]]
Feed = Callable[[Int[Tensor, " batch"] | None], Float[Tensor, "batch vocab"]]
FORCED = 3  # tokens that the trial feeds after its prompts


class Decoded(NamedTuple):
    """The tokens that follow each prompt, and the numbers of the prompts whose logits are not finite."""

    replies: list[Ids]
    odd: set[int]


@dataclass(frozen=True)
class DecodingTrial:
    """How prompts are decoded rightly: ``together`` padded, ``cached``; or why not."""

    together: bool
    cached: bool
    trouble: str | None = None


@torch.no_grad()
def decode_greedily(
    model: Model,
    prompts: Sequence[Ids],
    limits: Sequence[int],
    ended: Callable[[Ids], bool],
    batch_size: int,
    done: Callable[[], object] = lambda: None,
) -> Decoded:
    """Go on with each prompt by the most likely token, until ``ended`` or as many tokens as its limit allows.

    The model's active edits run as they do in Hugging Face's ``generate``: on the prompt, then on each new token.

    Args:
        model: the model.
        prompts: token ids.
        limits: tokens to add, at most; with its prompt, no more than the context holds.
        ended: whether a prompt needs no token after these.
        batch_size: prompts that run together.
        done: called whenever a prompt has ended.
    """
    once = decodes_once(model)
    trial = DecodingTrial(together=True, cached=True) if once else decoding_of(model)
    replies: list[Ids] = [()] * len(prompts)
    odd = set[int]()
    for numbers in _groups(prompts, limits, batch_size, alike=not trial.together):
        rows = [prompts[number] for number in numbers]
        going = {row: number for row, number in enumerate(numbers) if limits[number]}
        feed = _feed(model, rows, trial, once=once)
        chosen = None
        while going:
            logits = feed(chosen)
            chosen = logits.argmax(-1)
            finite = logits.amax(-1).isfinite().tolist()
            for row, token in enumerate(chosen.tolist()):
                if row not in going:
                    continue
                number = going[row]
                replies[number] += (token,)
                if not finite[row]:
                    odd.add(number)
                if not finite[row] or len(replies[number]) == limits[number] or ended(replies[number]):
                    del going[row]
                    done()
    return Decoded(replies, odd)


def continuation(model: Model, prompts: Sequence[Ids]) -> Feed:
    """What gives the logits after prompts of one length, then, for each token of every row, those after it."""
    once = decodes_once(model)
    trial = DecodingTrial(together=True, cached=True) if once else decoding_of(model)
    return _feed(model, prompts, trial, once=once)


def _feed(model: Model, prompts: Sequence[Ids], trial: DecodingTrial, *, once: bool) -> Feed:
    """What gives the logits after the prompts, then, for each token of every row, those after it."""
    if once:
        assert isinstance(model, HookedTransformer)  # decodes_once
        feed = decoder(model, prompts)
        first = feed(None)
        if first.isfinite().all():  # else a prompt's reach others that share its beginning
            return lambda tokens: first if tokens is None else feed(tokens)
    return _cached(model, prompts) if trial.cached else _whole(model, prompts)


def end_of_text(model: Model) -> set[int]:
    """Ids of the tokens that end a text: those of the model's generation settings, and the tokenizer's."""
    settings: Any = getattr(model, "ivlens_generation_config", None)
    if settings is None:
        settings = getattr(getattr(model, "hugging_face", None), "generation_config", None)
    found = getattr(settings, "eos_token_id", None)
    own = getattr(model.tokenizer, "eos_token_id", None)
    return {each for each in [*(found if isinstance(found, list) else [found]), own] if each is not None}


def _groups(prompts: Sequence[Ids], limits: Sequence[int], batch_size: int, *, alike: bool) -> Iterator[list[int]]:
    """Numbers of the prompts that run together: of one limit and similar length, or where ``alike`` the same one."""
    of = [(limit, len(prompt)) for limit, prompt in zip(limits, prompts, strict=True)]
    order = sorted(range(len(of)), key=of.__getitem__)
    for _, group in groupby(order, key=lambda number: of[number] if alike else of[number][0]):
        numbers = list(group)
        yield from (numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size))


def _cached(model: Model, prompts: Sequence[Ids]) -> Feed:
    """Gives the logits after the prompts, then, for each token of every row, those after it."""
    tokens, mask = padded_ids(prompts, model.cfg.device, left=True)
    run = start_decoding(model, len(prompts))

    def feed(chosen: Int[Tensor, " batch"] | None) -> Float[Tensor, "batch vocab"]:
        nonlocal mask
        if chosen is None:
            return run(tokens, mask)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return run(chosen.to(tokens)[:, None], mask)

    return feed


def _whole(model: Model, prompts: Sequence[Ids]) -> Feed:
    """``_cached`` without the cache: every token runs the whole prompt and what follows it."""
    added: list[Ids] = [()] * len(prompts)

    def feed(chosen: Int[Tensor, " batch"] | None) -> Float[Tensor, "batch vocab"]:
        for row, token in enumerate([] if chosen is None else chosen.tolist()):
            added[row] += (token,)
        # the token to be predicted stands last, as an answer's last token that is no input
        pairs = [TokenizedPrompt(ids, (*more, 0)) for ids, more in zip(prompts, added, strict=True)]
        return torch.stack([logits[-1] for logits in answer_logits(model, padded(pairs, model.cfg.device))])

    return feed


@singledispatch
def start_decoding(model: Any, batch: int) -> NextLogits:
    """A function of new tokens, and the mask of all tokens so far, to the logits after them; it keeps the cache."""
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

    cache = TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, batch)

    def run(tokens: Int[Tensor, "batch pos"], mask: Int[Tensor, "batch all"]) -> Float[Tensor, "batch vocab"]:
        new = mask[:, -tokens.shape[1] :]
        with overflow_shown(model, new):
            residual = model(tokens, attention_mask=new, past_kv_cache=cache, stop_at_layer=model.cfg.n_layers)
        return next_logits(model, residual)

    return run


_trials: "WeakKeyDictionary[nn.Module, DecodingTrial]" = WeakKeyDictionary()


def decoding_of(model: Model) -> DecodingTrial:
    """How the model's prompts are decoded rightly, tried once without the edits that are active.

    Edits that do not tell padding from tokens, as somebody's own hooks, get prompts without padding.
    """
    blind = not runs_in_parts(model)
    if model not in _trials:
        if blind:
            return DecodingTrial(together=False, cached=True)
        with without_edits(model):
            _trials[model] = _tried(model)
    trial = _trials[model]
    if not trial.cached:
        warnings.warn(
            "this model's key-value cache does not give what whole passes give: every token runs the whole prompt "
            f"({trial.trouble})", FallbackWarning, stacklevel=4,
        )  # fmt: skip
    return DecodingTrial(together=not blind, cached=trial.cached) if trial.together else trial


def _tried(model: Model) -> DecodingTrial:
    ids = tuple((5 + 37 * at) % model.cfg.d_vocab for at in range(16))
    prompts, forced = [ids[:12], ids[5:12]], ids[12 : 12 + FORCED]
    one_by_one = [_forced(partial(_whole, model), [prompt], forced) for prompt in prompts]
    expected = torch.cat(one_by_one, 1)
    trouble = None
    for together in (True, False):
        try:
            of = [prompts] if together else [[prompt] for prompt in prompts]
            found = torch.cat([_forced(partial(_cached, model), each, forced) for each in of], 1)
        except Exception as error:  # whatever a model's own code raises
            trouble = reason(error)
            continue
        off = (found - expected).abs().max() / expected.abs().max()
        if off <= TOLERANCE[model.cfg.dtype]:
            return DecodingTrial(together, cached=True)
        trouble = f"logits are off by {float(off):.0e} of the largest"
    return DecodingTrial(together=True, cached=False, trouble=trouble)


def _forced(
    start: Callable[[Sequence[Ids]], Feed], prompts: Sequence[Ids], forced: Ids
) -> Float[Tensor, "step batch vocab"]:
    feed = start(prompts)
    tokens = [None, *(torch.full((len(prompts),), token) for token in forced)]
    return torch.stack([feed(token) for token in tokens])
