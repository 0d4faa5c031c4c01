"""``HarnessModel``: a model of ivlens as a language model of lm-evaluation-harness, with the edits that are active.

Texts become tokens as they do in the harness' own Hugging Face model, and its log-likelihoods and greedy answers are
the same; edits of the last prompt token are made at the last token of the context. What cannot be answered exactly is
refused: sampling, responses cached without regard to edits, and a text without a prompt under an edit of one.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ..errors import ArgumentError, PromptError, UnsupportedError, brief, few, reason, refuse_odd
from ..models import (
    Model,
    active_edits,
    answer_streams,
    batches,
    check_attention,
    check_dtype,
    check_length,
    decode_greedily,
    end_of_text,
    final_logits,
    runs_edited_once,
)
from ..progress import ProgressBar
from ..tasks import beginning
from ..vocabulary import Ids, TokenizedPrompt

LONGEST = 256  # generated tokens where a task does not say, as in the harness' own models
UNUSED = {"do_sample", "temperature", "top_p", "top_k"}  # settings of sampling, which change no greedy answer
PLAIN = {"num_beams": 1, "repetition_penalty": 1.0}


class Scored(NamedTuple):
    """Log probabilities in nats of a continuation: whole, per token, of its beginning; whether decoding gives it."""

    whole: float
    token: float
    begun: float
    greedy: bool


class HarnessModel(TemplateLM):
    """A model of ivlens that any task of lm-evaluation-harness runs on: ``simple_evaluate(HarnessModel(model), ...)``.

    ``scored`` holds, for each context and continuation, the log probabilities of the last time that it was scored.

    Args:
        model: the model; contexts such as ``steer`` and ``ablate`` that are active while a task runs hold in it.
        batch_size: rows per forward pass.
        max_length: tokens of a context with its continuation; longer ones lose tokens on the left, with a warning
            (None: the model's context).
        template_options: options of the chat template, such as ``enable_thinking``.

    Raises:
        UnsupportedError: a tokenizer that appends tokens to a text.
        ArgumentError: a ``max_length`` beyond the model's context.
    """

    def __init__(
        self,
        model: Model,
        batch_size: int = 16,
        max_length: int | None = None,
        template_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_dtype(model)
        check_attention(model)
        if max_length is not None and max_length > model.cfg.n_ctx:
            raise ArgumentError(f"max_length within the model's context of {model.cfg.n_ctx} tokens", str(max_length))
        self.model, self.batch_size, self.max_length = model, batch_size, max_length or model.cfg.n_ctx
        tokenizer: Any = model.tokenizer
        self.tokenizer: Any = tokenizer
        self.template_options = dict(template_options or {})
        self.scored: dict[tuple[str, str], Scored] = {}
        if tokenizer("a")["input_ids"][-1] in tokenizer.all_special_ids:
            raise UnsupportedError(
                "a tokenizer that appends nothing to a text, since a continuation follows it",
                "one that appends a special token", "set its add_eos_token to False",
            )  # fmt: skip

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: BOS, or else end-of-text."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def set_cache_hook(self, cache_hook: Any) -> None:
        raise UnsupportedError("a run without use_cache", "one with it", "its keys do not say how the model is edited")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **options: Any) -> list[int]:
        """Token ids, with what the tokenizer adds unless the text begins with the prefix token."""
        if add_special_tokens is None and has_bos_prefix(string, self.tokenizer.decode([self.prefix_token_id])):
            add_special_tokens = False
        asked = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **asked))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as the tokenizer's template writes it, up to the answer, or as far as it was begun.

        Raises:
            PromptError: there is no template, or it refuses.
        """
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt, **self.template_options,
            )  # fmt: skip
        except Exception as error:  # a template is the model publisher's code and may raise anything
            roles = few(message["role"] for message in chat_history)
            raise PromptError(f"a chat template that takes turns of {roles}", reason(error)) from error
        return text

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **options: Any
    ) -> list[tuple[float, bool]]:
        pairs = [self._within(tuple(context), tuple(continuation)) for _, context, continuation in requests]
        scores = self._score(pairs, disable_tqdm)
        self.scored |= {request[0]: score for request, score in zip(requests, scores, strict=True) if request[0]}
        return [(score.whole, score.greedy) for score in scores]

    def _within(self, context: Ids, continuation: Ids) -> TokenizedPrompt:
        """The pair within ``max_length``, which bounds what is fed: all tokens but the last."""
        if not context:
            raise PromptError("a context that has tokens", "blank text", "an empty one becomes the prefix token")
        if not 0 < len(continuation) <= self.max_length:
            raise PromptError(f"continuations of 1 to {self.max_length} tokens", f"one of {len(continuation)}")
        return TokenizedPrompt(self._cut(context, self.max_length + 1 - len(continuation)), continuation)

    def _cut(self, context: Ids, length: int) -> Ids:
        if len(context) > length:
            warnings.warn(f"a context of {len(context)} tokens was cut on the left to {length}", stacklevel=2)
        return context[-length:]

    @torch.no_grad()
    def _score(self, pairs: Sequence[TokenizedPrompt], quiet: bool) -> list[Scored]:
        """Continuations that differ in their last token share a row."""
        rows: dict[tuple[Ids, Ids], list[int]] = {}
        for number, (context, continuation) in enumerate(pairs):
            rows.setdefault((context, continuation[:-1]), []).append(number)
        check_length(self.model, [TokenizedPrompt(*row) for row in rows])
        check_length(self.model, [TokenizedPrompt(continuation[-1:]) for _, continuation in pairs])
        asked = [(pairs[numbers[0]], numbers) for numbers in rows.values()]
        scores: dict[int, Scored] = {}
        odd = set[int]()
        with ProgressBar(total=len(asked), desc="scoring", unit="row", leave=False, disable=quiet) as bar:
            once = runs_edited_once(self.model)
            of_rows = batches([pair for pair, _ in asked], self.batch_size, alike=once)
            for at, batch in reversed(list(of_rows)):  # the longest first, unless beginnings are shared
                for each, residual in zip(at, answer_streams(self.model, batch, once=once), strict=True):
                    logits = final_logits(self.model, residual)
                    logs = logits.double().log_softmax(-1).cpu()
                    for number in asked[each][1]:
                        scores[number] = _scored(self.tokenizer, logs, pairs[number].answer_ids)
                    if not logits.max(-1).values.isfinite().all():
                        odd.add(asked[each][1][0])
                bar.update(len(at))
        refuse_odd("logits", [self.tokenizer.decode(list(context)) for context, _ in pairs] if odd else [], odd)
        return [scores[number] for number in range(len(pairs))]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods of whole texts, in windows of ``max_length`` tokens.

        Raises:
            UnsupportedError: an active edit at the prompt's tokens, of which a text has none.
        """
        edits = [edit for edit in active_edits(self.model) if edit.get("position") != "all" and "hooks" not in edit]
        if edits:
            raise UnsupportedError(
                "edits of all tokens for the likelihood of whole texts, which have no prompt", brief(edits[0]),
                "steer with position='all'",
            )  # fmt: skip
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]), prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length, context_len=1,
            )  # fmt: skip
            for context, predicted in map(make_disjoint_window, rolling):
                windows.append((None, context, predicted))
                owners.append(number)
        totals = [0.0] * len(requests)
        for owner, (log_likelihood, _) in zip(owners, self._loglikelihood_tokens(windows, disable_tqdm), strict=True):
            totals[owner] += log_likelihood
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations of contexts, up to the first stop text.

        Raises:
            UnsupportedError: a request for another way of decoding.
            PromptError: no room for a context beside the generated tokens.
        """
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(self._decoding(request.args[1]), []).append(number)
        texts = [""] * len(requests)
        for (max_tokens, stop), numbers in groups.items():
            if max_tokens >= self.max_length:
                raise PromptError(
                    f"fewer generated tokens than the {self.max_length} of the context", f"max_gen_toks: {max_tokens}",
                    "set max_gen_toks in the task's generation_kwargs",
                )  # fmt: skip
            asked = [self.tok_encode(requests[number].args[0]) or [self.prefix_token_id] for number in numbers]
            prompts = [self._cut(tuple(ids), self.max_length - max_tokens) for ids in asked]
            found = _greedy_texts(self.model, prompts, max_tokens, stop, self.batch_size)
            for number, text in zip(numbers, found, strict=True):
                texts[number] = text
        return texts

    def _decoding(self, settings: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
        """The most tokens and the stop texts that a task asks for."""
        asked: dict[str, Any] = dict(normalize_gen_kwargs(dict(settings), LONGEST))
        max_tokens, until = asked.pop("max_gen_toks"), asked.pop("until")
        others = {key: value for key, value in asked.items() if key not in UNUSED and PLAIN.get(key) != value}
        if asked["do_sample"] or others:
            came = brief(others or {"do_sample": True})
            raise UnsupportedError("a task that decodes greedily", f"generation_kwargs {came}", "change its file")
        return max_tokens, tuple(dict.fromkeys([*filter(None, until), self.tokenizer.decode([self.eot_token_id])]))


def _scored(tokenizer: Any, logs: torch.Tensor, continuation: Ids) -> Scored:
    """Scores of a continuation from the log probabilities, [token, vocab], at its positions."""
    targets = torch.tensor(continuation)
    chosen = logs.gather(-1, targets[:, None])[:, 0]
    begun = chosen[: beginning(tokenizer, continuation)]
    greedy = bool((logs.argmax(-1) == targets).all())
    return Scored(chosen.sum().item(), chosen.mean().item(), begun.sum().item(), greedy)


def _greedy_texts(
    model: Model, prompts: Sequence[Ids], max_tokens: int, stop: Sequence[str], batch_size: int
) -> list[str]:
    """What the model goes on with, token by token the most likely one, before the first stop text."""
    tokenizer: Any = model.tokenizer
    check_length(model, [TokenizedPrompt(prompt) for prompt in prompts])
    ends = end_of_text(model)
    # a stop text may come in other tokens than its own, and within them
    window = 2 + max(len(tokenizer.encode(text, add_special_tokens=False)) for text in stop)

    def ended(reply: Ids) -> bool:
        tail = tokenizer.decode(list(reply[-window:]))
        return reply[-1] in ends or any(each in tail for each in stop)

    replies, odd = decode_greedily(model, prompts, [max_tokens] * len(prompts), ended, batch_size)
    refuse_odd("logits", [tokenizer.decode(list(ids)) for ids in prompts] if odd else [], odd)
    return [_before(tokenizer.decode(list(ids), skip_special_tokens=True), stop) for ids in replies]


def _before(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop texts."""
    for each in stop:
        text = text.split(each)[0]
    return text
