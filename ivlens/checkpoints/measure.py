"""Measures of a task on a checkpoint, each computed once and saved under a key of all that it depends on."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import capture, mean_head_activations
from ..effects import indirect_effects
from ..files import safe_name
from ..models import (
    Model,
    Recorded,
    attention_weights,
    identity,
    provenance,
    recorded_meanwhile,
    relative_change,
    resid_pre_name,
    unchanged,
)
from ..records import (
    MATRICES,
    ConditionComparison,
    Evaluation,
    Head,
    HeadReading,
    HiddenStates,
    OutputDivergence,
    Record,
    Replies,
    SteeringSweep,
    WeightChange,
    WeightSpectrum,
    load_or_compute,
)
from ..scoring import evaluate, prompt_ids
from ..steering import compare_conditions, controlled, steering_sweep
from ..tasks import Prompt, is_lasting
from ..tensor_files import load_tensors
from ..vectors import InstructionVector, instruction_vector
from ..vocabulary import Condition
from .config import CheckpointConfig
from .kept_tensors import keep_tensors
from .measure_words import IN_WORDS
from .prompts import TaskPrompts
from .sources import CheckpointUnderTest

R = TypeVar("R", bound=Record)
VERSION = 2  # increased whenever the numbers of a measure change
log = logging.getLogger("ivlens")


class SteeringPoint(NamedTuple):
    """The layer and scale at which a vector is added."""

    layer: int
    scale: float


@dataclass(frozen=True)
class AgainstNewTask:
    """Measures of an old task that need the task that the checkpoint learned.

    ``answers``: for each test prompt, what the new task would answer to its input. ``subtraction``: answers to clean
    test prompts, with the checkpoint's vector of the new task subtracted, and random ones, at ``point``.
    """

    answers: list[tuple[str, ...]]
    subtraction: ConditionComparison
    point: SteeringPoint


@dataclass(frozen=True)
class Measurement:
    """All measures of one task on one checkpoint, and the layer and scale of the recovery."""

    answers: Evaluation
    knowledge: Evaluation | None
    heads: HeadReading
    hidden: HiddenStates
    recovery: ConditionComparison
    steered: SteeringPoint
    replies: Replies
    steered_replies: Replies
    prompts: TaskPrompts
    against_new: AgainstNewTask | None = None


@dataclass(frozen=True)
class CheckpointMeasurements:
    """All measures of one checkpoint: by task, and how far its weights and outputs are from the base's.

    ``new_outputs`` are on the prompts of the task that the checkpoint learned, where that is known; ``general`` are the
    answers to prompts of general abilities.
    """

    tasks: dict[str, Measurement]
    weight_change: Float[Tensor, "matrix layer head"]
    new_outputs: OutputDivergence | None = None
    text_outputs: OutputDivergence | None = None
    spectrum: WeightSpectrum | None = None
    general: Mapping[str, Evaluation] = field(default_factory=dict)

    @property
    def steered(self) -> dict[str, SteeringPoint]:
        """The layer and scale at which each task's vectors were added."""
        return {task: each.steered for task, each in self.tasks.items()}


@dataclass(frozen=True)
class KeptMeasures:
    """The measures of a comparison, saved in ``folder``; each computation is logged when it begins."""

    folder: Path
    config: CheckpointConfig

    def answers_and_hidden(
        self, checkpoint: CheckpointUnderTest, prompts: TaskPrompts
    ) -> tuple[Evaluation, HiddenStates]:
        """How the checkpoint answers the task's clean test prompts, and the streams entering each block at their ends.

        Both come from the same passes, unless one of them was kept.
        """
        answer = partial(evaluate, prompts=prompts.test)
        with recorded_meanwhile() as recorded:
            answers = self._kept("answers", Evaluation, checkpoint, prompts.task, answer, prompts.test)
        compute = partial(_hidden_states, prompts=prompts.test, recorded=recorded)
        return answers, self._kept("hidden", HiddenStates, checkpoint, prompts.task, compute, prompts.test)

    def knowledge(self, checkpoint: CheckpointUnderTest, prompts: TaskPrompts) -> Evaluation | None:
        """How it completes the task's cloze texts; None for a task without a cloze."""
        if prompts.cloze is None:
            return None
        compute = partial(evaluate, prompts=prompts.cloze)
        return self._kept("knowledge", Evaluation, checkpoint, prompts.task, compute, prompts.cloze)

    def heads(
        self, checkpoint: CheckpointUnderTest, prompts: TaskPrompts, base_heads: tuple[Head, ...] | None
    ) -> HeadReading:
        """The task's effects and vector on the checkpoint; ``base_heads`` is None on the base itself."""
        config = self.config
        compute = partial(_read_heads, prompts=prompts, base_heads=base_heads, config=config)
        return self._kept(
            "heads", HeadReading, checkpoint, prompts.task, compute, [*prompts.clean, *prompts.corrupted],
            groups=config.groups, metric=config.metric, k=config.k, base_heads=base_heads, method=config.method,
            steps=config.steps, stream_dtype=config.stream_dtype and str(config.stream_dtype),
        )  # fmt: skip

    def sweep(self, base: CheckpointUnderTest, prompts: TaskPrompts, vector: InstructionVector) -> SteeringSweep:
        """Answers of the base to bare validation prompts with its vector added, for each layer and scale."""
        config, bare = self.config, prompts.bare_validation

        def compute(model: Model) -> SteeringSweep:
            return steering_sweep(model, vector, bare, config.tried_layers(model.cfg.n_layers), config.scales)

        return self._kept(
            "sweep", SteeringSweep, base, prompts.task, compute, bare,
            layers=config.layers, scales=config.scales, vector=hash_of_vector(vector),
        )  # fmt: skip

    def recovery(
        self,
        checkpoint: CheckpointUnderTest,
        prompts: TaskPrompts,
        vectors: Mapping[str, InstructionVector],
        steered: SteeringPoint,
        answers: Evaluation,
    ) -> ConditionComparison:
        """Bare and clean test prompts, and bare ones with each vector added, the base's first; random ones.

        ``answers`` are those to the clean prompts.
        """
        seeds = self.config.random_seeds
        compute = partial(
            _recover, prompts=prompts, vectors=vectors, steered=steered, random_seeds=seeds, answers=answers
        )
        return self._kept(
            "recovery", ConditionComparison, checkpoint, prompts.task, compute, [*prompts.bare_test, *prompts.test],
            random_seeds=seeds, layer=steered.layer, scale=steered.scale,
            vectors={name: hash_of_vector(vector) for name, vector in vectors.items()},
        )  # fmt: skip

    def weights(self, checkpoint: CheckpointUnderTest, base_facts: Mapping[str, Any]) -> WeightChange:
        """How far each head's matrices are from the base's, which ``keep_attention`` saved."""
        path = self.attention_file(base_facts)
        compute = partial(_weight_change, attention_file=path)
        return self._kept("weights", WeightChange, checkpoint, None, compute, (), base=identity_of(base_facts))

    def keep_attention(self, base: CheckpointUnderTest) -> None:
        """Write the base's attention matrices to a file, so that no second model is held beside a checkpoint."""

        def tensors() -> dict[str, Tensor]:
            model = base.model()
            found = {
                f"{layer}.{name}": weight.cpu().contiguous()
                for layer in range(model.cfg.n_layers) for name, weight in attention_weights(model, layer).items()
            }  # fmt: skip
            if "0.W_Q" not in found:
                log.warning("queries, keys and values are one joint matrix: of the weights, W_O's change is measured")
            return found

        facts = {"of": key_hash(identity_of(base.facts))}
        keep_tensors(self.attention_file(base.facts), facts, tensors, base.facts_folder)

    def attention_file(self, base_facts: Mapping[str, Any]) -> Path:
        """The file that ``keep_attention`` writes."""
        return self.folder / f"attention-{key_hash(identity_of(base_facts))}.safetensors"

    def _kept(
        self,
        measure: str,
        kind: type[R],
        checkpoint: CheckpointUnderTest,
        task: str | None,
        compute: Callable[[Model], R],
        prompts: Sequence[Prompt],
        **settings: Any,
    ) -> R:
        return kept_measure(self.folder, measure, kind, checkpoint, task, compute, prompts, **settings)


def kept_measure(
    folder: Path,
    measure: str,
    kind: type[R],
    checkpoint: CheckpointUnderTest,
    task: str | None,
    compute: Callable[[Model], R],
    prompts: Sequence[Prompt],
    **settings: Any,
) -> R:
    """The saved measure, or else one computed on the checkpoint's model; its key has everything it depends on.

    Nothing is saved of prompts that a function judges which has no lasting name.
    """
    model = identity_of(checkpoint.facts)
    prompts_hash = _hash([repr(prompt) for prompt in prompts])
    key = {"measure": [measure, VERSION], "model": model, "prompts": prompts_hash, **settings}
    parts = [key_hash(model), *([] if task is None else [safe_name(task)]), measure, key_hash(key)]

    def run() -> R:
        log.info("%s: %s%s", checkpoint.name, IN_WORDS[measure], "" if task is None else f" ({task})")
        model = checkpoint.model()
        with unchanged(model, since=checkpoint.checked):
            checkpoint.checked = True
            return compute(model)

    return load_or_compute(folder / f"{'.'.join(parts)}.safetensors", kind, key, run) if is_lasting(prompts) else run()


def vector_of(reading: HeadReading, task: str) -> InstructionVector:
    """The vector that the base's heads write on a checkpoint, the mean over groups of clean prompts."""
    parts = reading.parts.mean(0)
    return InstructionVector(parts.sum(0), parts, reading.heads, task, provenance=reading.provenance)


def reselected_vector_of(reading: HeadReading, task: str) -> InstructionVector:
    """The vector of as many heads chosen anew on a checkpoint, the mean over groups of clean prompts."""
    values = reading.reselected.mean(0)
    return InstructionVector(values, values.new_zeros(0, len(values)), (), task, provenance=reading.provenance)


def _read_heads(
    model: Model, prompts: TaskPrompts, base_heads: tuple[Head, ...] | None, config: CheckpointConfig
) -> HeadReading:
    """Effects with means over all clean prompts, and the vector's parts with means over each group of them."""
    clean, groups = prompts.clean, config.groups
    means = [mean_head_activations(model, clean[group::groups]) for group in range(groups)]
    all_means = replace(means[0], values=torch.stack([each.values for each in means]).mean(0), n=len(clean))
    effects = indirect_effects(
        model, prompts.corrupted, all_means, metric=config.metric, method=config.method, steps=config.steps,
        stream_dtype=config.stream_dtype,
    )  # fmt: skip
    own_heads = tuple(effects.top(config.k))
    heads = base_heads or own_heads
    layer_index, head_index = torch.tensor(heads).T
    return HeadReading(
        effects,
        torch.stack([each.values[layer_index, head_index] for each in means]),
        torch.stack([instruction_vector(model, each, heads).parts for each in means]),
        torch.stack([instruction_vector(model, each, own_heads).values for each in means]),
        heads,
        provenance=provenance(model, task=prompts.task, clean=len(clean)),
    )


def _hidden_states(model: Model, prompts: list[Prompt], recorded: Recorded) -> HiddenStates:
    """The streams entering each block at the prompts' last tokens, from what was ``recorded`` of them."""
    points, asked = [resid_pre_name(layer) for layer in range(model.cfg.n_layers)], prompt_ids(model, prompts)
    if all(ids in recorded for ids in asked):
        residual = torch.stack([torch.stack([recorded[ids][point] for point in points]) for ids in asked])
    else:
        captured = capture(model, prompts, points, reduce="none", what="hidden states")
        residual = torch.stack([captured[point] for point in points], 1)
    return HiddenStates(residual, provenance=provenance(model, prompts=len(prompts)))


def _recover(
    model: Model,
    prompts: TaskPrompts,
    vectors: Mapping[str, InstructionVector],
    steered: SteeringPoint,
    random_seeds: Sequence[int],
    answers: Evaluation,
) -> ConditionComparison:
    layer, scale = steered
    conditions = controlled(model, prompts.bare_test, None, vectors, layer, scale, random_seeds)
    found = compare_conditions(model, conditions, task=prompts.task, layer=layer, scale=scale)
    return replace(
        found,
        correct=torch.cat([found.correct[:1], answers.correct[None], found.correct[1:]]),
        probabilities=torch.cat([found.probabilities[:1], answers.probabilities[None], found.probabilities[1:]]),
        conditions=(found.conditions[0], str(Condition.CLEAN), *found.conditions[1:]),
    )


def _weight_change(model: Model, attention_file: Path) -> WeightChange:
    """The change of each matrix that is known of both models; not-a-number for the others."""
    base, _ = load_tensors(attention_file)
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    changes = torch.full((len(MATRICES), n_layers, n_heads), float("nan"))
    for layer in range(n_layers):
        now = attention_weights(model, layer)
        known = [name for name in MATRICES if name in now and f"{layer}.{name}" in base]
        base_layer = {name: base[f"{layer}.{name}"] for name in known}
        changes[[MATRICES.index(name) for name in known], layer] = relative_change(now, base_layer, n_heads)
    return WeightChange(changes, provenance=provenance(model))


def identity_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that a checkpoint's numbers depend on: the model, the packages, the kind of device."""
    return identity(facts) | {"device": facts["device"]}


def _hash(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def key_hash(value: Any) -> str:
    """A hash short enough for a file's name; what it stands for is in the file."""
    return _hash(value)[:12]


def hash_of_vector(vector: InstructionVector) -> str:
    """A hash of the vector's values."""
    return sha256(vector.values.contiguous().numpy().tobytes()).hexdigest()[:16]
