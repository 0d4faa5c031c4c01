"""How mixtures of a base's and a tuned model's weights answer prompts, each mixture measured once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..files import short_hash
from ..models import WeightPart, package_versions
from ..records import Answers, OutputDivergence, load_or_compute
from ..records.repair import BASE, TUNED
from ..scoring import judge_answers
from ..tasks import Prompt, Task, check_available, clean_instruction, format_facts, is_lasting
from ..vocabulary import Split
from .divergence import TEXT, kl_divergence, text_log_probabilities
from .measure import identity_of
from .mixing import Fractions, MixedWeights, mixed_weights
from .prompts import check_same_tokens, warn_of_another_template
from .sources import CheckpointUnderTest


def clean_prompts(
    config: Any, task: Task, split: Split, at_most: int, tokenizer: Any, *, learned: bool
) -> list[Prompt]:
    """Clean prompts of an old or a learned task out of a split, at most as many as the split has.

    ``config`` says how tasks are asked: a ``RepairConfig`` or a ``RevertConfig``.

    Raises:
        ArgumentError: neither instruction nor demonstrations, or a split without examples.
    """
    check_available(task, split, {"the number of prompts": 1})
    shots = config.shots if config.learned_shots is None or not learned else config.learned_shots
    return task.prompts(
        min(at_most, len(task.split(split))), split=split, shots=shots, seed=config.seed, format=config.format,
        tokenizer=tokenizer, instruction=clean_instruction(task, config.instruction, shots),
    )  # fmt: skip


@dataclass
class KeptAnswers:
    """Answers of the mixed model, kept in ``folder`` by all that they depend on; ``facts`` are the two models'.

    ``base_outputs`` are the base's log-probabilities of the bundled text, once they were needed.
    """

    mixed: MixedWeights
    facts: Mapping[str, dict[str, Any]]
    folder: Path
    batch_size: int
    cache: dict[str, Answers] = field(default_factory=dict)
    base_outputs: Tensor | None = None

    def of(self, fractions: Fractions, prompts: Sequence[Prompt]) -> Answers:
        """Answers with these fractions of the change."""
        fractions = fractions.only(self._changed)
        return self.after(partial(self.mixed.mix, fractions), self._named(fractions), prompts)

    def divergence(self, fractions: Fractions) -> float:
        """KL(base || mixture) in nats, the mean over positions of the bundled text."""
        fractions = fractions.only(self._changed)
        key = {**self._models(list(self.facts)), "weights": self._named(fractions), "text": TEXT}

        def compute() -> OutputDivergence:
            if self.base_outputs is None:
                self.mixed.mix(Fractions.uniform(self.mixed.model.cfg.n_layers, 0.0))
                self.base_outputs = text_log_probabilities(self.mixed.model)
            self.mixed.mix(fractions)
            return OutputDivergence(kl_divergence(self.base_outputs, text_log_probabilities(self.mixed.model)))

        path = self.folder / f"divergence-{short_hash(key)}.safetensors"
        return load_or_compute(path, OutputDivergence, key, compute).values.mean().item()

    @property
    def _changed(self) -> set[WeightPart]:
        return {self.mixed.parts[name] for name in self.mixed.names}

    def _named(self, fractions: Fractions) -> Any:
        """What tells a mixture from others, as JSON; the base is the same for every checkpoint."""
        base = not any(fractions.of(part) for part in self._changed)
        return BASE if base else [list(fractions.attention), list(fractions.mlp), fractions.rest]

    def _models(self, names: Sequence[str]) -> dict[str, Any]:
        return {name: identity_of(self.facts[name]) for name in names}

    def after(self, change: Callable[[], None], weights: Any, prompts: Sequence[Prompt]) -> Answers:
        """Answers with the weights that ``change`` makes; ``weights`` tells them from others, as JSON."""
        names = [BASE] if weights == BASE else list(self.facts)
        key = {
            **self._models(names),
            "weights": weights,
            "prompts": short_hash([repr(prompt) for prompt in prompts]),
        }
        name = short_hash(key)

        def compute() -> Answers:
            change()
            scores = judge_answers(self.mixed.model, prompts, self.batch_size)
            return Answers(scores.log_probabilities[0], scores.correct)

        if name not in self.cache:
            path = self.folder / f"answers-{name}.safetensors"
            self.cache[name] = load_or_compute(path, Answers, key, compute) if is_lasting(prompts) else compute()
        return self.cache[name]

    def provenance(self, config: Any) -> dict[str, Any]:
        """The tuned model's facts, and among the settings the base's."""
        settings = {**vars(config), **format_facts(config.format), "base": self.facts[BASE]}
        return {"model": self.facts[TUNED], "settings": settings, "versions": package_versions()}


@contextmanager
def kept_answers(
    base: CheckpointUnderTest, tuned: CheckpointUnderTest, prompts: Sequence[Prompt], folder: Path, scratch: Path,
    config: Any,
) -> Iterator[KeptAnswers]:  # fmt: skip
    """Within this context, the mixed model's answers; see ``mixed_weights``.

    ``config`` says how tasks are asked, in batches of which size: a ``RepairConfig`` or a ``RevertConfig``.

    Raises:
        MismatchError: the two tokenizers give one of the ``prompts`` different ids.
    """
    tokenizer = base.tokenizer()
    with mixed_weights(base, tuned, scratch) as mixed:
        facts = {BASE: base.facts, TUNED: tuned.facts}
        if base.facts["tokenizer_sha256"] != tuned.facts["tokenizer_sha256"]:
            own = tuned.tokenizer()
            check_same_tokens(TUNED, tokenizer, own, prompts)
            warn_of_another_template(TUNED, tokenizer, own, config.format)
        yield KeptAnswers(mixed, facts, folder, config.batch_size)
