"""Abilities watched while a model learns: how it answers, and what has become of their instruction vectors."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import mean_head_activations
from ..checks import Count, Natural, checked
from ..errors import ArgumentError
from ..models import HookedTransformer, hooked, last_token, resid_pre_name
from ..scoring import answers_of, evaluate
from ..tasks import Prompt, Task
from ..vectors import InstructionVector, instruction_vector, vector_values
from ..vocabulary import check_layer


@checked
@dataclass(frozen=True)
class Ability:
    """Prompts that are asked during training, and the base's instruction vector for them.

    ``layer`` is where the hidden state is compared with the vector (None: the middle one); ``watched`` prompts at most
    go into the vector's measures.
    """

    name: str
    prompts: tuple[Prompt, ...]
    vector: InstructionVector | None = None
    layer: Natural | None = None
    watched: Count = 16

    @classmethod
    @checked
    def of(
        cls, what: "Ability | Task", n: Count = 30, vector: InstructionVector | None = None, shots: Natural = 2
    ) -> "Ability":
        """An ability, or that of a task: clean prompts of its test split."""
        if isinstance(what, Ability):
            return what
        held = len(what.split("test"))
        prompts = what.prompts(min(n, held), shots=shots, split="test", instruction=bool(what.instructions))
        return cls(what.name, tuple(prompts), vector)

    @property
    def digest(self) -> str:
        """Hash of what is asked and compared: prompts, vector, layer."""
        vector = None if self.vector is None else (self.vector.heads, self.vector.values.tolist())
        return sha256(repr((self.prompts, vector, self.layer, self.watched)).encode()).hexdigest()[:16]

    @checked
    def check(self, model: HookedTransformer) -> None:
        """Raise what measuring it would.

        Raises:
            PromptError: a prompt that cannot be tokenised or is longer than the model's context.
            MismatchError: a vector of another kind of model.
            ArgumentError: a layer that the model has not, or a vector of zeros.
        """
        answers_of(model, self.prompts)
        if self.layer is not None:
            check_layer(model.cfg.n_layers, self.layer, f"the layer of ability {self.name!r}")
        if self.vector is not None and not vector_values(model, self.vector).any():
            raise ArgumentError(f"a vector of ability {self.name!r} that is not zero, to compare with", "zeros")


def measure(model: HookedTransformer, ability: Ability) -> dict[str, Any]:
    """Accuracy and probabilities on the ability's prompts; with a base vector, its cosine, norm ratio and alignment.

    The vector is rebuilt from the same heads on the ability's prompts with the model's present weights (2406.12227);
    alignment is the mean cosine of the hidden state at the last prompt token with the base's vector.
    """
    found = evaluate(model, ability.prompts)
    low, high = found.accuracy_interval()
    row = {
        "ability": ability.name, "accuracy": found.accuracy, "low": low, "high": high,
        "probability": found.probability, "probability_stderr": found.probability_stderr,
        "token_probability": found.token_probability, "n": found.n,
        "correct": "".join(str(int(hit)) for hit in found.correct),
    }  # fmt: skip
    return row if ability.vector is None else row | _of_vector(model, ability, ability.vector)


@torch.no_grad()
def _of_vector(model: HookedTransformer, ability: Ability, base: InstructionVector) -> dict[str, float]:
    prompts = ability.prompts[: ability.watched]
    values, cosines = vector_values(model, base).double(), []

    def look(stream: Float[Tensor, "batch pos d_model"]) -> None:
        cosines.append(torch.cosine_similarity(stream[last_token(stream)].double(), values[None], dim=1))

    layer = model.cfg.n_layers // 2 if ability.layer is None else ability.layer
    with hooked(model, {resid_pre_name(layer): look}):
        means = mean_head_activations(model, prompts)
    now = instruction_vector(model, means, base.heads)
    return {
        "cosine": now.cosine(base), "norm_ratio": now.norm / base.norm, "alignment": torch.cat(cosines).mean().item(),
    }  # fmt: skip
