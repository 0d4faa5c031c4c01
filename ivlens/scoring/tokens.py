"""Token ids of prompts and their answers, within what the model can take."""

from collections.abc import Iterable, Sequence

from ..errors import PromptError, brief, few
from ..models import Model, check_attention, check_dtype, check_length
from ..tasks import Prompt
from ..vocabulary import Ids as Ids
from ..vocabulary import TokenizedPrompt


def ids(model: Model, prompt: Prompt, answer: str | None = None) -> TokenizedPrompt:
    """Token ids of a prompt and of its answer (the first accepted one by default)."""
    return prompt.encode(model.tokenizer, answer)


def prompt_ids(model: Model, prompts: Iterable[Prompt] | Prompt) -> list[Ids]:
    """Token ids of prompts without answers, within the model's context.

    Raises:
        PromptError: see ``evaluate``.
    """
    return [ids for ids, _ in encoded(model, [(prompt, None) for prompt in listed(prompts)])]


def all_ids(model: Model, prompts: Iterable[Prompt] | Prompt) -> list[TokenizedPrompt]:
    """Token ids of prompts and their first accepted answers, within the model's context.

    Raises:
        PromptError: see ``evaluate``.
    """
    return encoded(model, [(prompt, prompt.answers[0]) for prompt in listed(prompts)])


def encoded(model: Model, queries: Sequence[tuple[Prompt, str | None]]) -> list[TokenizedPrompt]:
    """Token ids of prompts and their answers; all unusable prompts are named in one error."""
    check_dtype(model)
    check_attention(model)
    pairs: list[TokenizedPrompt] = []
    refused: list[tuple[str, PromptError]] = []
    for prompt, answer in queries:
        try:
            alone = answer is None
            pair = TokenizedPrompt(tuple(prompt.token_ids(model.tokenizer))) if alone else ids(model, prompt, answer)
            if not pair[0]:
                raise PromptError("prompts that have tokens", "one without")
            check_length(model, [pair])
            pairs.append(pair)
        except PromptError as error:
            name = brief(prompt.input or prompt.text)
            refused.append((name if answer is None else f"{name} -> {brief(answer)}", error))
    if refused:
        first = refused[0][1]
        count = f"{len(refused)} of {len(queries)} prompts cannot be used: {few(name for name, _ in refused)}"
        raise PromptError(first.expected, first.came, f"{first.do}; {count}" if first.do else count)
    return pairs


def listed(prompts: Iterable[Prompt] | Prompt) -> list[Prompt]:
    """The prompts as a list, from a single one or any iterable.

    Raises:
        PromptError: none, or something that is no Prompt.
    """
    prompts = [prompts] if isinstance(prompts, Prompt) else list(prompts)
    odd = next((prompt for prompt in prompts if not isinstance(prompt, Prompt)), None)
    if odd is not None:
        raise PromptError("prompts", f"{odd!r:.60}", "Prompt(text, answers) makes one by hand, task.prompts(n) many")
    if not prompts:
        raise PromptError("at least one prompt", "none", "task.prompts(n) makes them")
    return prompts
