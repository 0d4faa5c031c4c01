"""What a prompt's answer is chosen from, its *candidates*, and their log-likelihoods."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from ..models import Model, PromptCandidates
from ..tasks import GenerationScoring, Prompt
from .tokens import encoded, listed


@dataclass(frozen=True)
class Candidates:
    """A prompt's candidates: its options where it is judged by them, else its accepted answers.

    ``texts`` are the candidates, ``tokens`` the ids of the prompt and of each.
    """

    prompt: Prompt
    texts: tuple[str, ...]
    tokens: PromptCandidates

    @property
    def first(self) -> int:
        """The number of the first accepted answer, whose probability is reported."""
        return self.texts.index(self.prompt.answers[0])

    @property
    def accepted(self) -> list[bool]:
        """Which candidates are accepted answers."""
        return [text in self.prompt.answers for text in self.texts]

    @property
    def n_tokens(self) -> list[int]:
        """Tokens of each candidate."""
        return [len(ids) for ids in self.tokens.candidates]

    @property
    def n_characters(self) -> list[int]:
        """Characters of each candidate without its leading space, as lm-evaluation-harness' ``acc_norm`` has it."""
        return [max(1, len(text.removeprefix(" "))) for text in self.texts]


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """Of one prompt's candidates, the summed log-likelihoods in nats, and whether greedy decoding gives them.

    Runs are conditions that the prompt is answered under; there may be any number of axes of them, or none.
    """

    log_likelihoods: Float[Tensor, "*run candidate"]
    greedy: Bool[Tensor, "*run candidate"]


def chosen_among(prompt: Prompt) -> tuple[str, ...]:
    """The texts that a prompt's answer is chosen from."""
    return prompt.options if is_choice(prompt) else prompt.answers


def is_choice(prompt: Prompt) -> bool:
    """Whether the answer is the option of highest log-likelihood."""
    return bool(prompt.options) and not isinstance(prompt.scoring, GenerationScoring)


def candidates_of(model: Model, prompts: Iterable[Prompt] | Prompt) -> list[Candidates]:
    """The candidates of prompts, within the model's context.

    Raises:
        PromptError: see ``evaluate``.
    """
    prompts = listed(prompts)
    texts = [chosen_among(prompt) for prompt in prompts]
    pairs = iter(encoded(model, [(prompt, text) for prompt, own in zip(prompts, texts, strict=True) for text in own]))
    return [_candidates(prompt, own, [next(pairs) for _ in own]) for prompt, own in zip(prompts, texts, strict=True)]


def _candidates(prompt: Prompt, texts: tuple[str, ...], pairs: Sequence[tuple[tuple[int, ...], ...]]) -> Candidates:
    return Candidates(prompt, texts, PromptCandidates(pairs[0][0], tuple(ids for _, ids in pairs)))
