"""How checkpoints are measured."""

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

import torch

from ..checks import Between, Count, Natural, Seed, checked
from ..effects.checks import check_method
from ..errors import ArgumentError
from ..steering import TriedOnLayers
from ..tasks import AnyFormat, format_facts
from ..vocabulary import Corruption, Method, Metric, check_count
from .verdict import VerdictRule


@checked
@dataclass(frozen=True)
class CheckpointConfig(TriedOnLayers):
    """How checkpoints are measured; a changed field repeats only the measures that it affects.

    Args:
        n_clean: clean prompts of the train split for mean activations, at most as many as the split has.
        groups: groups of the clean prompts, for the intervals of vectors.
        n_corrupted: corrupted prompts of the train split for the effects.
        corruption: how prompts hide the task: "no-instruction", "other-instruction" or "shuffled-labels".
        metric: what effects are measured in: "probability", "log-probability" (nats) or "logit-difference".
        k: the number of strongest heads that are summed into the vector.
        shots: demonstrations in clean and corrupted prompts.
        n_test: test prompts to answer, with and without instruction.
        n_validation: validation prompts on which layers and scales are chosen: bare ones for the base's vector that is
            added, clean ones for the new task's that is subtracted.
        layers: layers at which vectors are tried (None: every third of the middle half).
        scales: scales of the vectors to try.
        random_seeds: seeds of the random control vectors.
        seed: seed of the prompts.
        rule: thresholds of the verdict.
        instruction: True for each task's first instruction, a number for that paraphrase, a text of your own, False for
            demonstrations alone (2310.15213's setting); None: True where the task has instructions, else False.
        format: how prompts are written: "labelled", "plain", "qa" or "chat", the base's chat template. A ``Chat`` has
            its settings; a callable writes prompts in a way of your own (``Task.prompts``).
        method: how effects are computed: "exact", "loop" (a run for each head) or "attribution" (an estimate from
            gradients). See ``indirect_effects``.
        steps: gradients along the path, for the attribution method.
        stream_dtype: a wider dtype for the streams of the exact method, for models in half precision (None: the
            model's own).
        general: also ask the built-in general abilities, such as arithmetic and reading, as many test prompts of each
            as of a task; of these, only the answers are measured.

    Raises:
        ArgumentError: naming the field that is outside its values.

    Example:
        >>> iv.CheckpointConfig(n_clean=10, groups=2, k=5).tried_layers(12)
        (3, 6)
    """

    grid = (25, 75, 3)

    n_clean: Count = 40
    groups: Annotated[int, Between(2)] = 5
    n_corrupted: Count = 20
    corruption: Corruption = "no-instruction"
    metric: Metric = "log-probability"
    k: Count = 20
    shots: Natural = 2
    n_test: Count = 30
    n_validation: Count = 20
    layers: tuple[Natural, ...] | None = None
    scales: tuple[float, ...] = (1.0, 2.0, 4.0, 6.0)
    random_seeds: tuple[Seed, ...] = (0, 1, 2)
    seed: Seed = 0
    rule: VerdictRule = field(default_factory=VerdictRule)
    instruction: bool | int | str | None = None
    format: AnyFormat = "labelled"
    method: Method = "exact"
    steps: Count = 1
    stream_dtype: torch.dtype | None = None
    general: bool = True

    def __post_init__(self) -> None:
        if self.groups > self.n_clean:
            raise ArgumentError(f"groups to be at most n_clean, {self.n_clean}", repr(self.groups))
        if not self.scales or not self.random_seeds:
            raise ArgumentError("scales and random_seeds, one or more of each", "none")
        check_method(self.method, self.steps, self.stream_dtype)

    def _check_heads(self, count: int) -> None:
        check_count(self.k, count)

    def settings(self) -> dict[str, Any]:
        """The fields as a record's provenance holds them: dtype and format by name.

        Returns:
            One entry per field, all of them JSON's.

        Example:
            >>> iv.CheckpointConfig(k=5).settings()["k"]
            5
        """
        dtype = None if self.stream_dtype is None else str(self.stream_dtype)
        return {**asdict(replace(self, format="labelled")), **format_facts(self.format), "stream_dtype": dtype}
