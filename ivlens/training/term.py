"""``Term``, the base class of the objective's terms, and ``Batch``, the input of their losses."""

from collections.abc import Sequence
from dataclasses import Field, asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

from jaxtyping import Float, Int
from torch import Tensor

from ..checks import Count
from ..errors import ArgumentError
from .objective import floored
from .teacher import TeacherOutputs, VectorAddition

Need = Literal["vector", "heads", "base", "anchors", "rehearse", "replay", "texts", "fisher", "adapters"]
Losses = dict[str, Float[Tensor, ""]]


@dataclass(frozen=True)
class Batch:
    """The input of a term's losses: one padded batch of a step, after the forward pass.

    - ``logits``: the trained model's, at the tokens from which the answers' tokens are predicted, [token, vocab];
    - ``targets``: the answers' tokens, [token];
    - ``first``: the index among them of each prompt's first one, which the last prompt token predicts, [prompt];
    - ``z``: outputs of the vector's heads at the last prompt token, [prompt, chosen head, d_head] none
      of them unless one is needed (need ``"heads"``);
    - ``teacher``: the base model on the same batch (need ``"base"``);
    - ``token_share``, ``prompt_share``: the batch's part of the step's tokens and prompts, below 1 with ``accumulate``;
    - ``sequence``: the trained model's logits at every token of prompts and answers, without padding,
      [position, vocab] (``whole_sequences``).
    """

    logits: Float[Tensor, "token vocab"]
    targets: Int[Tensor, " token"]
    first: Int[Tensor, " prompt"]
    z: Float[Tensor, "prompt chosen d_head"]
    teacher: TeacherOutputs | None = None
    token_share: float = 1.0
    prompt_share: float = 1.0
    sequence: Float[Tensor, "position vocab"] | None = None

    @property
    def base(self) -> TeacherOutputs:
        """The base model's outputs.

        Raises:
            ArgumentError: the term does not declare that it needs the base model.
        """
        if self.teacher is None:
            raise ArgumentError("a term that reads the base model to declare it", "none", 'needs = frozenset({"base"})')
        return self.teacher

    @property
    def sequence_logits(self) -> Float[Tensor, "position vocab"]:
        """The trained model's logits at every token of prompts and answers.

        Raises:
            ArgumentError: the term does not declare that it needs whole sequences.
        """
        if self.sequence is None:
            raise ArgumentError("a term that reads every token to declare it", "none", "whole_sequences = True")
        return self.sequence

    def token_mean(self, values: Float[Tensor, " token"], floor: float | None = None) -> Float[Tensor, ""]:
        """The mean over tokens, as this batch's share of the mean over the step's; zero while below the floor."""
        return _floored(values.mean(), floor) * self.token_share

    def prompt_mean(self, values: Float[Tensor, " prompt"], floor: float | None = None) -> Float[Tensor, ""]:
        """The mean over prompts, as this batch's share of the mean over the step's; zero while below the floor."""
        return _floored(values.mean(), floor) * self.prompt_share

    def sequence_mean(self, values: Float[Tensor, " position"], floor: float | None = None) -> Float[Tensor, ""]:
        """The sum over each prompt's tokens, as this batch's share of the mean over the step's prompts; floored."""
        return _floored(values.sum() / len(self.first), floor) * self.prompt_share


def _floored(value: Float[Tensor, ""], floor: float | None) -> Float[Tensor, ""]:
    return value if floor is None else floored(value, floor)


@dataclass(frozen=True)
class Term:
    """Base of all terms: what a term declares, and its methods, which do nothing by default.

    - ``needs``: ``"vector"`` and its ``"heads"`` (``fine_tune``'s ``vector=``); ``"base"``, the teacher's outputs;
      ``"anchors"``, the initial weights; ``"rehearse"``, ``"replay"`` or ``"texts"``, which the base writes itself: the
      term's losses are on those prompts instead of the new task's, in a separate forward pass of ``batch_size``
      prompts; ``"fisher"`` or ``"adapters"``, the references of the term's ``penalty``;
    - ``answered``: whether losses on such prompts are at all answer tokens, or only at the last prompt token;
    - ``source``: the paper or other origin of the term.

    A field that weights a loss names it in its metadata, as it is called in the log. ``metadata={"added": True}`` says
    that runs from before the field was added have its default.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    answered: ClassVar[bool] = True
    source: ClassVar[str] = ""

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each loss, by its name in the log."""
        return {each.metadata["loss"]: getattr(self, each.name) for each in _weight_fields(self)}

    @property
    def whole_step(self) -> bool:
        """Whether the losses are defined only for a whole step, not as a sum over its parts (``accumulate``)."""
        return False

    @property
    def whole_sequences(self) -> bool:
        """Whether the losses need logits at every token of prompts and answers, not only those of the answers."""
        return False

    @property
    def facts(self) -> dict[str, Any]:
        """The fields, as provenance holds them; of added ones those that are not at their default."""
        added = [each for each in fields(self) if "added" in each.metadata]
        default = {each.name for each in added if getattr(self, each.name) == each.default}
        return {name: value for name, value in asdict(self).items() if name not in default}

    @property
    def parts(self) -> dict[str, Self]:
        """The term with each of its losses alone, by the loss's name; of one loss or none itself, by its class."""
        weighted = [each for each in _weight_fields(self) if getattr(self, each.name) > 0]
        if len(weighted) < 2:
            return {type(self).__name__: self}
        zeros = {each.name: 0.0 for each in weighted}
        return {
            each.metadata["loss"]: replace(self, **zeros | {each.name: getattr(self, each.name)}) for each in weighted
        }

    def without(self, loss: str) -> Self:
        """The term without one of its several losses, which has the weight 0."""
        return replace(self, **{each.name: 0.0 for each in _weight_fields(self) if each.metadata["loss"] == loss})

    def scaled(self, factor: float) -> Self:
        """The same term with its weights times ``factor``."""
        return replace(self, **{each.name: factor * getattr(self, each.name) for each in _weight_fields(self)})

    def with_lora(self) -> Self:
        """The term as it acts on LoRA's factors instead of the weights, with the same needs; itself by default."""
        return self

    def check(self, n_layers: int, learning_rate: float) -> None:
        """Raise ArgumentError where the model's number of layers, or the run's learning rate, does not fit the term."""

    def student_addition(self, step: int, steps: int, n_layers: int) -> VectorAddition | None:
        """What is added to the trained model at ``step`` of ``steps``."""
        return None

    def teacher_addition(self, n_layers: int) -> VectorAddition | None:
        """What is added to the teacher."""
        return None

    def losses(self, batch: Batch) -> Losses:
        """The losses by their names in the log, unweighted."""
        return {}

    def penalty(self, value: Tensor, reference: Tensor) -> tuple[Float[Tensor, ""], Tensor]:
        """The loss of one weight, once per step and unweighted, and its gradient by ``value``.

        With need ``"fisher"`` the value is the weight's change, and the reference its Fisher information; with
        ``"adapters"`` they are a factor A of LoRA and the same weight's factors A of earlier adapters.
        """
        raise NotImplementedError

    def trains(self, layer: int, n_layers: int) -> bool:
        """Whether the weights of ``layer`` may change; those of all layers by default."""
        return True

    def averaged_from(self, steps: int) -> int | None:
        """The first of ``steps`` whose weights are averaged, None for no averaging."""
        return None

    def after_step(self, parameters: Sequence[Tensor], anchors: Sequence[Tensor], learning_rate: float) -> None:
        """Change the parameters in place after the optimiser's step; ``anchors`` are their initial values."""

    def at_end(self, parameters: Sequence[Tensor], anchors: Sequence[Tensor]) -> None:
        """Change the parameters in place after the last step; ``anchors`` are their initial values."""


def _weight_fields(term: Term) -> list[Field[Any]]:
    return [each for each in fields(term) if "loss" in each.metadata]


@dataclass(frozen=True, kw_only=True)
class OwnTexts(Term):
    """Base of terms that need texts which the base model writes itself, from its first token on (see ``own_texts``)."""

    n_texts: Count = 64
    n_tokens: Count = 64
