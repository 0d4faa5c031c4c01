"""Which tokens of a forward pass are the prompt's, and which are padding.

A prompt in a padded batch must be edited as it would be alone, so an edit's positions count the prompt's own tokens
only. These follow from the model's input: ivlens' own batches, an attention mask, texts, or token ids where padding
cannot be confused with text. Otherwise the call is refused.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn
from transformer_lens.utilities import get_attention_mask

from ..errors import HookError
from .engines import HookedTransformer

MASK = "pass attention_mask=, 1 where a row has tokens of its own and 0 where it is padded"

_ends: ContextVar["tuple[Int[Tensor, ' batch'], Tensor | None] | None"] = ContextVar("ends", default=None)
_call: ContextVar["Call | None"] = ContextVar("call", default=None)
_after_prompts: ContextVar[bool] = ContextVar("after_prompts", default=False)


@dataclass(frozen=True)
class Pass:
    """The rows of a forward pass: which tokens are not padding, and where each prompt ends.

    A pass that ``continues`` prompts from a key-value cache contains no prompt token.
    """

    own: Bool[Tensor, "batch pos"]
    last: Int[Tensor, " batch"]
    continues: bool = False

    @property
    def prompt(self) -> Bool[Tensor, "batch pos"]:
        """Which tokens are the prompts'; answers may follow in the same pass."""
        return self.own & (torch.arange(self.own.shape[1], device=self.own.device) <= self.last[:, None])


@contextmanager
def last_prompt_tokens(positions: Int[Tensor, " batch"], of: Tensor | None = None) -> Iterator[None]:
    """Within this context row i's prompt ends at ``positions[i]``; with ``of``, only in a pass over these token ids."""
    token = _ends.set((positions, of))
    try:
        yield
    finally:
        _ends.reset(token)


@contextmanager
def after_prompts() -> Iterator[None]:
    """Within this context a pass contains no prompt token, but what follows prompts in a key-value cache."""
    token = _after_prompts.set(True)
    try:
        yield
    finally:
        _after_prompts.reset(token)


def last_token(activation: Shaped[Tensor, "batch pos ..."]) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Index of each row's last prompt token in an activation."""
    batch, device = len(activation), activation.device
    return torch.arange(batch, device=device), this_pass(activation).last.to(device)


def this_pass(activation: Shaped[Tensor, "batch pos ..."]) -> Pass:
    """The rows of the forward pass that an activation belongs to.

    Raises:
        HookError: padding cannot be distinguished from tokens.
    """
    if _after_prompts.get():
        whole = _whole(activation)
        return Pass(whole.own, whole.last, continues=True)
    call, ends = _call.get(), _ends.get()
    if ends is not None and (ends[1] is None or (call is not None and ends[1] is call.input)):
        return Pass(_at(activation) <= _at(activation)[:, -1:], ends[0].to(activation.device))
    if call is None:
        raise HookError(
            "a call of the model itself while edits are active",
            "a part of it, or a forward function taken from it before",
            "call model(...) inside the with block",
        )
    return call.rows(activation)


class Call:
    """One call of a model's forward function, and what its arguments say about its rows."""

    def __init__(self, model: nn.Module, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        given = inspect.signature(type(model).forward).bind(model, *args, **options)
        given.apply_defaults()
        self.model: Any = model
        self.given = given.arguments
        self.before = 0 if self.cache is None else self.cached_tokens()  # the layers of this pass will add to them

    @classmethod
    def of(cls, model: nn.Module, args: tuple[Any, ...], options: Mapping[str, Any]) -> "Call":
        """A call of a HookedTransformer, or else of a model of Hugging Face."""
        return (_HookedCall if isinstance(model, HookedTransformer) else _HuggingFaceCall)(model, args, options)

    @property
    def input(self) -> Any:
        """Token ids, texts or a residual stream."""
        raise NotImplementedError

    @property
    def cache(self) -> Any:
        """The key-value cache that the pass goes on with, or None."""
        raise NotImplementedError

    def cached_tokens(self) -> int:
        """How many tokens the cache holds."""
        raise NotImplementedError

    def own_tokens(self) -> Bool[Tensor, "batch pos"]:
        """Which tokens are no padding."""
        raise NotImplementedError

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this context the edits of the model find this call."""
        token = _call.set(self)
        try:
            yield
        finally:
            _call.reset(token)

    def rows(self, activation: Shaped[Tensor, "batch pos ..."]) -> Pass:
        """The rows of the pass."""
        if self.before:
            if activation.shape[1] > 1:
                raise HookError(
                    "prompts whole, then one token a pass out of the key-value cache",
                    f"{activation.shape[1]} tokens after {self.before} cached ones",
                    "run the whole prompt in one pass",
                )
            whole = _whole(activation)
            return Pass(whole.own, whole.last, continues=True)
        own = self.own.to(activation.device)
        if own.shape != activation.shape[:2]:
            raise HookError(
                f"a mask or token ids of {tuple(activation.shape[:2])} rows and positions", f"{tuple(own.shape)}"
            )
        return Pass(own, (own * _at(own)).amax(1))

    @cached_property
    def own(self) -> Bool[Tensor, "batch pos"]:
        """Which tokens are no padding, where edits can be known to reach them."""
        own = self.own_tokens()
        if not own.any(1).all():
            raise HookError("a token of its own in every row", "padding only", MASK)
        if self.cache is not None and not own[:, -1].all():
            raise HookError(
                "prompts that end where their rows do, so that a cache can continue them",
                "padding after a prompt, or a prompt that ends in the padding token",
                "pad on the left, with attention_mask=, or give generate the texts",
            )
        return own


class _HookedCall(Call):
    """A call of a HookedTransformer, which infers padding where no mask says it."""

    @property
    def input(self) -> Any:
        return self.given["input"]

    @property
    def cache(self) -> Any:
        return self.given["past_kv_cache"]

    def cached_tokens(self) -> int:
        return int(self.cache[0].past_keys.shape[1])

    def own_tokens(self) -> Bool[Tensor, "batch pos"]:
        mask = self.given["attention_mask"]
        if mask is not None:
            own: Tensor = mask.bool()
            return own
        if isinstance(self.input, (str, list)):
            return self._of_texts([self.input] if isinstance(self.input, str) else self.input)
        if self.given["start_at_layer"] is not None:
            if len(self.input) > 1:
                raise HookError("a mask of the rows of a residual stream", "none", MASK)
            return _whole(self.input).own
        return self._of_tokens(self.input if self.input.ndim == 2 else self.input[None])

    def _of_texts(self, texts: list[str]) -> Bool[Tensor, "batch pos"]:
        lengths = torch.tensor([self.model.to_tokens(text).shape[1] for text in texts])[:, None]
        at = torch.arange(int(lengths.max()))[None]
        tokenizer: Any = self.model.tokenizer
        return at < lengths if tokenizer.padding_side == "right" else at >= at.shape[1] - lengths

    def _of_tokens(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        tokenizer: Any = self.model.tokenizer
        if tokenizer is None or tokenizer.pad_token_id is None:
            return _whole(tokens).own
        if tokenizer.padding_side == "left" or self.cache is not None:  # the pass masks padding itself
            return get_attention_mask(tokenizer, tokens, self.model.cfg.default_prepend_bos).bool()
        pad, kinds = tokenizer.pad_token_id, (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
        text = tokens != pad
        before, after = text.cumsum(1) == 0, text.flip(1).cumsum(1).flip(1) == 0
        if before[:, int(pad == tokenizer.bos_token_id) :].any():  # the pass would attend to these
            raise HookError("a mask of rows that begin with the padding token", "none", MASK)
        if pad in kinds and after.any():
            raise HookError(
                "a mask of rows that end in the padding token, which ends texts, too", "none", f"{MASK}, or pass texts"
            )
        return ~after


class _HuggingFaceCall(Call):
    """A call of a model of Hugging Face, which takes every token for text where no mask says otherwise."""

    @property
    def input(self) -> Any:
        tokens = self.given.get("input_ids")
        return self.given.get("inputs_embeds") if tokens is None else tokens

    @property
    def cache(self) -> Any:
        return self.given.get("past_key_values")

    def cached_tokens(self) -> int:
        return int(self.cache.get_seq_length())

    def own_tokens(self) -> Bool[Tensor, "batch pos"]:
        mask = self.given.get("attention_mask")
        if mask is None:
            return _whole(self.input).own
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            raise HookError(
                "an attention mask of rows and positions", f"one of {getattr(mask, 'ndim', 'no')} axes", MASK
            )
        return mask.bool()


def _at(rows: Shaped[Tensor, "batch pos ..."]) -> Int[Tensor, "batch pos"]:
    """The index of every token in its row."""
    return torch.arange(rows.shape[1], device=rows.device).expand(*rows.shape[:2])


def _whole(rows: Shaped[Tensor, "batch pos ..."]) -> Pass:
    """Rows without padding."""
    at = _at(rows)
    return Pass(at >= 0, at[:, -1])
