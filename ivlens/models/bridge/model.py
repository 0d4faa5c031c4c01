"""``Bridge``: a Hugging Face causal language model, computing as it is, with TransformerLens' names on it."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...checks import Count, checked
from ...errors import ArgumentError, HookError, UnsupportedError
from ..attached import hooks_on
from ..engines import Model
from ..points import Point, attn_out_name, mlp_out_name, pattern_name, resid_post_name, resid_pre_name, z_name
from .decoder import Decoder, find_decoder
from .rows import Arrangement, SweepTrial

UNLIMITED = 1 << 30  # positions, where a config does not bound them
GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


class Config:
    """Sizes and switches of a bridged model under TransformerLens' names; dtype and device are the model's own."""

    def __init__(self, hugging_face: PreTrainedModel, decoder: Decoder, tokenizer: Any) -> None:
        theirs: Any = hugging_face.config.get_text_config(decoder=True)
        self._model = hugging_face
        self.n_layers, self.n_heads = len(decoder.layers), decoder.n_heads
        self.n_key_value_heads: int | None = getattr(theirs, "num_key_value_heads", None)
        self.d_model, self.d_head = decoder.d_model, next((width for width in decoder.widths if width), 0)
        self.d_mlp: int = _number(theirs, "intermediate_size", "ffn_dim", "n_inner") or 4 * decoder.d_model
        self.d_vocab: int = theirs.vocab_size
        self.n_ctx: int = _number(theirs, "max_position_embeddings", "max_seq_len", "n_ctx") or UNLIMITED
        self.original_architecture = type(hugging_face).__name__
        self.normalization_type: str | None = None
        self.tokenizer_prepends_bos = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        self.default_prepend_bos = self.tokenizer_prepends_bos

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that activations have."""
        return self._model.dtype

    @property
    def device(self) -> str:
        """Where tokens go in; layers may lie on other devices."""
        return str(self._model.get_input_embeddings().weight.device)

    def to_dict(self) -> dict[str, Any]:
        """What numbers depend on beside the weights: Hugging Face's config, and which of PEFT's adapters are on."""
        adapters = [
            (path, module.active_adapters, module.disable_adapters, module.merged_adapters, _scaling(module))
            for path, module in self._model.named_modules()
            if hasattr(module, "active_adapters") and hasattr(module, "merged_adapters")
        ]
        config = self._model.config.to_dict()
        dropped = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
        return {name: value for name, value in config.items() if name not in dropped} | {"adapters": adapters}


class Bridge(nn.Module):
    """A Hugging Face causal language model under TransformerLens' hook names, computing with its own modules.

    ``load_model`` gives it for a family that has no HookedTransformer, and for ``engine="bridge"``. Hooks are on the
    model only while something is read or edited; its weights are not copied and its modules not replaced.

    Args:
        hugging_face: the model; PEFT's adapters, 4 and 8 bit weights and several devices stay as they are.
        tokenizer: the Hugging Face tokenizer that it is used with.

    Raises:
        UnsupportedError: the model is no stack of layers with one residual stream.

    Example:
        >>> bridge = iv.load_model(iv.export_hf(model, tmp_path / "model"), engine="bridge")
        >>> bridge("one two").shape[-1] == bridge.cfg.d_vocab
        True
    """

    def __init__(self, hugging_face: PreTrainedModel, tokenizer: Any) -> None:
        super().__init__()
        self.hugging_face: Any = hugging_face
        self.tokenizer = tokenizer
        with evaluating(hugging_face):
            self.decoder = find_decoder(hugging_face, self._short_text())
        self.cfg = Config(hugging_face, self.decoder, tokenizer)
        self.found_hooks = hooks_on(hugging_face)
        self.hook_dict = _points(self.decoder)
        hooked = {point.module for point in self.hook_dict.values()}
        self.hooked = [(path, module) for path, module in hugging_face.named_modules() if module in hooked]

    def __repr__(self) -> str:
        cfg = self.cfg
        return f"Bridge({cfg.original_architecture}, n_layers={cfg.n_layers}, n_heads={cfg.n_heads}, {cfg.dtype})"

    def _short_text(self) -> Int[Tensor, "batch pos"]:
        ids = self.tokenizer("The quick brown fox jumps over the lazy dog.")["input_ids"][:16]
        return torch.tensor([ids], device=self.hugging_face.get_input_embeddings().weight.device)

    @cached_property
    def sweep_trial(self) -> SweepTrial:
        """How the rows of a sweep lie, or why there is none: tried once, on a short text."""
        from .trial import try_sweep

        return try_sweep(self)

    @cached_property
    def shares_prefixes(self) -> bool:
        """Whether prompts with what follows them give the same in one pass and in two: tried once, on a short text."""
        from .prefixes import try_prefixes

        return try_prefixes(self)

    @property
    def arrangement(self) -> Arrangement:
        """How the rows of a sweep lie.

        Raises:
            UnsupportedError: in no way that gives what one pass for each intervention gives.
        """
        arrangement, trouble = self.sweep_trial
        if arrangement is None:
            raise UnsupportedError("a model whose key-value cache serves many rows", str(trouble), "use method='loop'")
        return arrangement

    @checked
    def to_tokens(self, input: str | list[str]) -> Int[Tensor, "batch pos"]:
        """Token ids, special tokens as the tokenizer sets them, padded on the right.

        Args:
            input: a text or several.

        Returns:
            The ids, [batch, pos].
        """
        tokens: Tensor = self._encoded(input)["input_ids"]
        return tokens

    def _encoded(self, input: str | list[str], side: str = "right") -> Any:
        texts = [input] if isinstance(input, str) else input
        if not texts:
            raise ArgumentError("a text, texts or token ids", "none")
        options = {"padding": True, "padding_side": side} if len(texts) > 1 else {}
        return self.tokenizer(texts, return_tensors="pt", **options).to(self.cfg.device)

    @checked
    def forward(self, input: Any, attention_mask: Any = None) -> Float[Tensor, "batch pos vocab"]:
        """Logits of texts or token ids.

        Args:
            input: a text, several, or token ids [batch, pos].
            attention_mask: 1 for tokens, 0 for padding, [batch, pos] (None: the tokenizer's, or all ones).

        Returns:
            The logits, [batch, pos, vocab].
        """
        logits: Tensor = self.run(*self._read(input, attention_mask)).logits
        return logits

    @checked
    def run(self, tokens: Any, mask: Any, **options: Any) -> Any:
        """The model's own output, in evaluation mode.

        Args:
            tokens: token ids, [batch, pos].
            mask: 1 for tokens, 0 for padding, [batch, pos], or None.
            options: further options of the model's forward function.

        Returns:
            What the Hugging Face model gives.
        """
        # older models have no such option
        if "logits_to_keep" not in inspect.signature(type(self.hugging_face).forward).parameters:
            options.pop("logits_to_keep", None)
        with self.running():
            return self.hugging_face(input_ids=tokens, attention_mask=mask, **({"use_cache": False} | options))

    @checked
    def generate(self, input: Any, max_new_tokens: Count = 10, **options: Any) -> Any:
        """What the model goes on with, greedily unless ``options`` of transformers' ``generate`` say otherwise.

        Args:
            input: a text, texts, or token ids [batch, pos].
            max_new_tokens: how many tokens to add.
            options: further options of transformers' ``generate``.

        Returns:
            The text with its continuation, a list of them for several texts, token ids for token ids.
        """
        tokens, mask = self._read(input, options.pop("attention_mask", None), side="left")
        mask = torch.ones_like(tokens) if mask is None else mask
        settings = GREEDY | {"pad_token_id": self.tokenizer.pad_token_id} | options
        with self.running():
            made = self.hugging_face.generate(tokens, attention_mask=mask, max_new_tokens=max_new_tokens, **settings)
        if isinstance(input, Tensor):
            return made
        texts = self.tokenizer.batch_decode(made, skip_special_tokens=True)
        return texts[0] if isinstance(input, str) else texts

    def _read(self, input: Any, mask: Any, side: str = "right") -> tuple[Int[Tensor, "batch pos"], Any]:
        if isinstance(input, str) or (isinstance(input, list) and all(isinstance(each, str) for each in input)):
            encoded = self._encoded(input, side)
            input, mask = encoded["input_ids"], encoded.get("attention_mask")
        if not isinstance(input, Tensor):
            raise ArgumentError("a text, texts or token ids", f"a {type(input).__name__}")
        if not input.numel() or input.is_floating_point() or input.ndim not in (1, 2):
            raise ArgumentError("token ids, [batch, pos], at least one", f"{input.dtype} of shape {tuple(input.shape)}")
        return (input if input.ndim == 2 else input[None]), mask

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this context the model is in evaluation mode, and computes attention patterns where they are asked."""
        self._check_modules()
        patterns = any(point.taps for name, point in self.hook_dict.items() if name.endswith("hook_pattern"))
        with evaluating(self.hugging_face):
            before = self.hugging_face.config._attn_implementation
            if patterns and before != "eager":
                self.hugging_face.set_attn_implementation("eager")
            try:
                yield
            finally:
                if patterns and before != "eager":
                    self.hugging_face.set_attn_implementation(before)

    def _check_modules(self) -> None:
        """Raise HookError where one of the modules that hooks are on was replaced, by PEFT for example."""
        for path, module in self.hooked:
            if _submodule(self.hugging_face, path) is not module:
                raise HookError(
                    "a model whose modules are those that it was loaded with", f"another one at {path}",
                    "give the Hugging Face or PEFT model to load_model again",
                )  # fmt: skip


if not TYPE_CHECKING:
    Model.register(Bridge)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within this context the model is in evaluation mode; afterwards each of its modules is in the mode it was in.

    What ``torch.compile`` made of its modules, which does not see hooks that come and go, is left out.
    """
    training = [module for module in model.modules() if module.training]
    compiled = any(module._compiled_call_impl is not None for module in model.modules())
    try:
        for module in training:
            module.training = False
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        for module in training:
            module.training = True


def _points(decoder: Decoder) -> dict[str, Point]:
    points: dict[str, Point] = {}
    for number, layer in enumerate(decoder.layers):
        points[resid_pre_name(number)] = Point(layer.module, given=True)
        points[resid_post_name(number)] = Point(layer.module, given=False)
        if layer.output is not None and layer.attention is not None:
            points[z_name(number)] = Point(layer.output, given=True, heads=decoder.n_heads)
            points[pattern_name(number)] = Point(layer.attention, given=False, item=1)
        if layer.writes is not None:
            points[attn_out_name(number)] = layer.writes
        if layer.mlp is not None:
            points[mlp_out_name(number)] = layer.mlp
    return points


def _number(config: Any, *names: str) -> int | None:
    """The first of the config's fields that is a whole number, or its largest where it has one for each layer."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, (int, list)) and value:
            return max(value) if isinstance(value, list) else value
    return None


def _submodule(model: nn.Module, path: str) -> Any:
    """The module at a path, or None."""
    for name in path.split("."):
        model = getattr(model, name, None)  # type: ignore[assignment]
    return model


def _scaling(module: Any) -> dict[str, float]:
    """By what each of PEFT's adapters of a module is multiplied, where it is LoRA's."""
    scaling = getattr(module, "scaling", None)
    return dict(scaling) if isinstance(scaling, dict) else {}


def run_cached(bridge: Bridge, tokens: Tensor, mask: Tensor, cache: Any) -> Any:
    """The model's own output for tokens after those in the cache, with the cache of both.

    Args:
        bridge: the model.
        tokens: token ids, [batch, pos].
        mask: 1 for tokens, 0 for padding, of what is cached and of what is new, [batch, all].
        cache: the key-value cache, or None.
    """
    options: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    if "position_ids" in inspect.signature(type(bridge.hugging_face).forward).parameters:
        # a row's own, from 0 at its first token that is no padding
        options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
    return bridge.run(tokens, mask, **options)
