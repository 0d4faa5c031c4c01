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
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities import get_attention_mask

from ..errors import HookError

FORWARD = inspect.signature(HookedTransformer.forward)
MASK = "pass attention_mask=, 1 where a row has tokens of its own and 0 where it is padded"

_ends: ContextVar["tuple[Int[Tensor, ' batch'], Tensor | None] | None"] = ContextVar("ends", default=None)
_call: ContextVar["Call | None"] = ContextVar("call", default=None)


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


def last_token(activation: Shaped[Tensor, "batch pos ..."]) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """Index of each row's last prompt token in an activation."""
    batch, device = len(activation), activation.device
    return torch.arange(batch, device=device), this_pass(activation).last.to(device)


def this_pass(activation: Shaped[Tensor, "batch pos ..."]) -> Pass:
    """The rows of the forward pass that an activation belongs to.

    Raises:
        HookError: padding cannot be distinguished from tokens.
    """
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

    def __init__(self, model: HookedTransformer, args: tuple[Any, ...], options: Mapping[str, Any]) -> None:
        given = FORWARD.bind(model, *args, **options)
        given.apply_defaults()
        self.model, self.given = model, given.arguments
        cache = self.given["past_kv_cache"]
        self.before = 0 if cache is None else cache[0].past_keys.shape[1]  # before the blocks of this pass add to it

    @property
    def input(self) -> Any:
        return self.given["input"]

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
        """Which tokens are not padding."""
        mask = self.given["attention_mask"]
        if mask is not None:
            own = mask.bool()
        elif isinstance(self.input, (str, list)):
            own = self._of_texts([self.input] if isinstance(self.input, str) else self.input)
        elif self.given["start_at_layer"] is not None:
            if len(self.input) > 1:
                raise HookError("a mask of the rows of a residual stream", "none", MASK)
            own = _whole(self.input).own
        else:
            own = self._of_tokens(self.input if self.input.ndim == 2 else self.input[None])
        if not own.any(1).all():
            raise HookError("a token of its own in every row", "padding only", MASK)
        if self.given["past_kv_cache"] is not None and not own[:, -1].all():
            raise HookError(
                "prompts that end where their rows do, so that a cache can continue them",
                "padding after a prompt, or a prompt that ends in the padding token",
                "pad on the left, with attention_mask=, or give generate the texts",
            )
        return own

    def _of_texts(self, texts: list[str]) -> Bool[Tensor, "batch pos"]:
        lengths = torch.tensor([self.model.to_tokens(text).shape[1] for text in texts])[:, None]
        at = torch.arange(int(lengths.max()))[None]
        tokenizer: Any = self.model.tokenizer
        return at < lengths if tokenizer.padding_side == "right" else at >= at.shape[1] - lengths

    def _of_tokens(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        tokenizer: Any = self.model.tokenizer
        if tokenizer is None or tokenizer.pad_token_id is None:
            return _whole(tokens).own
        if tokenizer.padding_side == "left" or self.given["past_kv_cache"] is not None:  # the pass masks padding itself
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


def _at(rows: Shaped[Tensor, "batch pos ..."]) -> Int[Tensor, "batch pos"]:
    """The index of every token in its row."""
    return torch.arange(rows.shape[1], device=rows.device).expand(*rows.shape[:2])


def _whole(rows: Shaped[Tensor, "batch pos ..."]) -> Pass:
    """Rows without padding."""
    at = _at(rows)
    return Pass(at >= 0, at[:, -1])
