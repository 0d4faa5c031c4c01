"""Abilities that are measured during training: the model's answers, and how their instruction vectors changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import capture
from ..checks import Count, Natural, checked
from ..errors import ArgumentError
from ..files import short_hash
from ..models import Model, at_least_float32, provenance, resid_pre_name, unchanged, z_name
from ..records import HeadMeans, short_repr
from ..scoring import check_answers, evaluate
from ..stats import cosine, jackknife_values
from ..tasks import AnyFormat, Prompt, Task
from ..text import plural
from ..vectors import InstructionVector, instruction_vector, outputs_of_heads, vector_values
from ..vocabulary import Head, check_layer


@checked
@dataclass(frozen=True)
class Ability:
    """Prompts to answer during training, and the base model's instruction vector for them.

    Args:
        name: name of the ability in the log.
        prompts: prompts to answer, which are not trained on.
        vector: the base's instruction vector, which is compared with the vector of the same heads now.
        layer: the layer at which the hidden state is compared with the vector (None: the middle one).
        n_watched: number of prompts, at most, for the vector's measures.

    Example:
        >>> iv.Ability.of(task, n=2).name == task.name
        True
    """

    name: str
    prompts: tuple[Prompt, ...]
    vector: InstructionVector | None = None
    layer: Natural | None = None
    n_watched: Count = 16

    def __repr__(self) -> str:
        return short_repr(self)

    @classmethod
    @checked
    def of(
        cls,
        what: "Ability | Task",
        n: Count = 30,
        vector: InstructionVector | None = None,
        shots: Natural = 2,
        format: AnyFormat = "labelled",
        tokenizer: Any = None,
    ) -> "Ability":
        """The ability to do a task, on clean prompts of its test split; an ability is returned unchanged.

        Args:
            what: the task.
            n: number of prompts, at most.
            vector: the base's instruction vector.
            shots: demonstrations in a prompt.
            format: how prompts are written: "labelled", "plain", "qa" or "chat", the model's chat template. A
                ``Chat`` has its settings; a callable writes prompts in a way of your own (``Task.prompts``).
            tokenizer: for "chat".
        """
        if isinstance(what, Ability):
            return what
        available = len(what.split("test"))
        prompts = what.prompts(min(n, available), shots=shots, split="test", format=format, tokenizer=tokenizer)
        return cls(what.name, tuple(prompts), vector)

    @property
    def digest(self) -> str:
        """Hash of the prompts, vector and layer."""
        vector = None if self.vector is None else (self.vector.heads, self.vector.values.tolist())
        return short_hash((self.prompts, vector, self.layer, self.n_watched))

    @checked
    def check(self, model: Model) -> None:
        """Raise the errors that measuring the ability on the model would raise.

        Args:
            model: the model that it would be measured on.

        Raises:
            PromptError: a prompt that cannot be tokenised or is longer than the model's context.
            MismatchError: a vector of another kind of model.
            ArgumentError: a layer that the model does not have, or a vector of zeros.
        """
        check_answers(model, self.prompts)
        if self.layer is not None:
            check_layer(model.cfg.n_layers, self.layer, f"the layer of ability {self.name!r}")
        if self.vector is not None and not vector_values(model, self.vector).any():
            raise ArgumentError(f"a vector of ability {self.name!r} that is not zero, to compare with", "zeros")


@dataclass(frozen=True)
class Abilities:
    """The abilities of a run: new ones to learn, and old ones to keep."""

    new: tuple[Ability, ...]
    keep: tuple[Ability, ...]

    @property
    def digests(self) -> dict[str, str]:
        """The abilities' digests, by name."""
        return {each.name: each.digest for each in (*self.new, *self.keep)}

    def check(self, model: Model) -> None:
        """Raise, before the first step, the errors that measuring the abilities would raise."""
        if len(self.digests) < len(self.new) + len(self.keep):
            raise ArgumentError("abilities of different names", ", ".join(sorted(self.digests)))
        for ability in (*self.new, *self.keep):
            ability.check(model)

    def measure(self, model: Model, step: int, known: Callable[[int, str], bool]) -> Iterator[dict]:
        """Measure each ability that is not ``known`` after ``step`` steps; return rows of the log."""
        for role, abilities in (("new", self.new), ("keep", self.keep)):
            for ability in abilities:
                if not known(step, ability.name):
                    # a row holds no provenance, for which weights would be hashed
                    yield {"step": step, "role": role} | measure(model, ability, since=True)


def measure(model: Model, ability: Ability, *, batch_size: int = 32, since: bool = False) -> dict[str, Any]:
    """Measure accuracy and probabilities on an ability's prompts; cosine, norm ratio and alignment of its vector.

    The vector is recomputed from the same heads on the ability's prompts with the current weights (arXiv 2406.12227).

    Args:
        model: the model as it is now.
        ability: what is measured.
        batch_size: prompts in one forward pass.
        since: nobody has changed the model since its facts were attached, so that they are not checked.

    Returns:
        ``accuracy`` with its 95% interval (``low``, ``high``), ``probability`` of the answers with its standard error,
        ``token_probability``, ``n``, and ``correct``, 1 or 0 per prompt. With a vector: ``cosine`` and ``norm_ratio``
        of the vector now with the base's, and ``alignment``, the mean cosine of the hidden state at the last prompt
        token with the base's vector.

    Example:
        >>> from ivlens.training import measure
        >>> measure(model, iv.Ability("old", tuple(prompts)))["n"]
        4
    """
    with unchanged(model, since=since):
        return measured_row(model, ability, batch_size=batch_size)


def with_vector(model: Model, ability: Ability, heads: Sequence[Head], *, batch_size: int = 32) -> Ability:
    """The ability with the vector that these heads give on its own prompts now, which makes the model its base.

    Args:
        model: the base.
        ability: an ability; a vector that it has is replaced.
        heads: the heads that are summed.
        batch_size: prompts in one forward pass.

    Example:
        >>> from ivlens.training import with_vector
        >>> from ivlens.vocabulary import Head
        >>> ability = with_vector(model, iv.Ability("old", tuple(prompts)), [Head(0, 1), Head(1, 2)])
        >>> ability.vector.task
        'old'
    """
    z, _ = _watched(model, ability, batch_size)
    means = HeadMeans(z.mean(0).to(at_least_float32(model.cfg.dtype)), len(z), provenance=provenance(model))
    return replace(ability, vector=replace(instruction_vector(model, means, heads), task=ability.name))


def measured_row(model: Model, ability: Ability, *, batch_size: int = 32, per_prompt: bool = False) -> dict[str, Any]:
    """What ``measure`` returns, and what varies by prompt where this is wanted.

    That are ``scores`` and ``probabilities`` of each prompt, and the accuracy that guesses would have, ``chance``. With
    a vector, of each watched prompt also ``cosines``, ``norm_ratios`` and ``alignments``, whose means are its measures.
    """
    found = evaluate(model, ability.prompts, batch_size=batch_size)
    low, high = found.accuracy_interval()
    row = {
        "ability": ability.name, "accuracy": found.accuracy, "low": low, "high": high,
        "probability": found.probability, "probability_stderr": found.probability_stderr,
        "token_probability": found.token_probability, "n": found.n,
        "correct": "".join(str(int(hit)) for hit in found.correct),
    }  # fmt: skip
    if per_prompt:
        row |= {"scores": found.prompt_scores.tolist(), "probabilities": found.probabilities.tolist()}
        row["chance"] = found.mean_chance
    if ability.vector is None:
        return row
    values = _of_vector(model, ability, ability.vector, batch_size, per_prompt)
    row |= {name: each.mean().item() for name, each in values.items()}
    return row | ({f"{name}s": each.tolist() for name, each in values.items()} if per_prompt else {})


def accuracies(rows: Sequence[Mapping[str, Any]]) -> str:
    """The accuracy of each new ability, and the mean of those to keep, in words.

    Args:
        rows: of the log, one per ability.
    """
    kept = [row["accuracy"] for row in rows if row["role"] == "keep"]
    found = [f"{row['accuracy']:.2f} on {row['ability']}" for row in rows if row["role"] == "new"]
    mean = [f"{sum(kept) / len(kept):.2f} on {plural(len(kept), 'task')} to keep"] if kept else []
    return ", ".join([*found, *mean])


def _of_vector(
    model: Model, ability: Ability, base: InstructionVector, batch_size: int, per_prompt: bool
) -> dict[str, Float[Tensor, " _"]]:
    """For each measure of the vector, values whose mean it is: of the watched prompts where these are wanted."""
    z, hidden = _watched(model, ability, batch_size)
    before = vector_values(model, base).double().cpu()

    def beside_base(means: Float[Tensor, "layer head d_head"]) -> Float[Tensor, " measure"]:
        now = outputs_of_heads(model, means, base.heads).sum(0).double()
        if not (now.any() and before.any()):
            raise ArgumentError(f"a vector of ability {ability.name!r} that is not zero, to compare with", "zeros")
        return torch.stack([cosine(now, before), now.norm() / before.norm()])

    cosines, norm_ratios = jackknife_values(z if per_prompt else z.mean(0, keepdim=True), beside_base).T
    return {"cosine": cosines, "norm_ratio": norm_ratios, "alignment": cosine(hidden, before[None])}


def _watched(
    model: Model, ability: Ability, batch_size: int
) -> tuple[Float[Tensor, "prompt layer head d_head"], Float[Tensor, "prompt d_model"]]:
    """Outputs of all heads on the ability's prompts, before W_O, and the hidden states at their last tokens."""
    prompts, n_layers = ability.prompts[: ability.n_watched], model.cfg.n_layers
    entering = resid_pre_name(n_layers // 2 if ability.layer is None else ability.layer)
    outputs = [z_name(layer) for layer in range(n_layers)]
    found = capture(model, prompts, [*outputs, entering], reduce="none", batch_size=batch_size)
    return torch.stack([found[point].double() for point in outputs], dim=1), found[entering]
