"""Cells: one measure of one task on one checkpoint, computed once for its content and kept."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..activations import mean_head_activations
from ..effects import indirect_effects
from ..errors import RecordError, refuse_odd
from ..files import load_tensors, safe_name, save_tensors
from ..models import (
    HookedTransformer,
    attention_weights,
    batches,
    final_residual,
    hooked,
    identity,
    last_token,
    padded,
    provenance,
    relative_change,
    resid_pre_name,
)
from ..records import (
    MATRICES,
    ConditionComparison,
    Evaluation,
    Head,
    HeadReading,
    HiddenStates,
    Record,
    SteeringSweep,
    WeightChange,
    load_or_compute,
)
from ..scoring import evaluate, prompt_ids
from ..steering import compare_conditions, random_vector, steer, steering_sweep
from ..steering.controls import Condition
from ..tasks import Prompt, Task
from ..vectors import InstructionVector, instruction_vector
from .config import CheckpointConfig
from .subject import Subject

R = TypeVar("R", bound=Record)
MEASURES = 2  # raised whenever the numbers of a measure change
# conditions of a recovery
BASE_VECTOR, OWN_VECTOR, OTHER_VECTOR = "bare + base's vector", "bare + own vector", "bare + vector of another task"


@dataclass(frozen=True)
class Cells:
    """The cells of a comparison in ``folder``; ``say`` is told of each that is computed."""

    folder: Path
    config: CheckpointConfig
    say: Callable[[str], None]

    def answers(self, subject: Subject, task: Task) -> Evaluation:
        """How the checkpoint answers the task's clean prompts."""
        asked = self._asked(task)
        return self._cell("answers", Evaluation, subject, task, lambda model: evaluate(model, asked), prompts=asked)

    def knowledge(self, subject: Subject, task: Task) -> Evaluation | None:
        """How it completes the task's cloze texts; nothing for a task without a cloze."""
        if task.cloze is None:
            return None
        config = self.config
        prompts = task.cloze_prompts(_at_most(config.n_test, task, "test"), split="test", seed=config.seed)
        return self._cell(
            "knowledge", Evaluation, subject, task, lambda model: evaluate(model, prompts), prompts=prompts
        )

    def reading(self, subject: Subject, task: Task, heads: tuple[Head, ...] | None) -> HeadReading:
        """The task's head effects and vector on the checkpoint; ``heads`` are the base's, None on the base itself."""
        clean, corrupted = self._clean(task), self._corrupted(task)
        return self._cell(
            "heads", HeadReading, subject, task, lambda model: self._read(model, task, clean, corrupted, heads),
            "groups", "metric", "k", base_heads=heads, prompts=[*clean, *corrupted],
        )  # fmt: skip

    def hidden(self, subject: Subject, task: Task) -> HiddenStates:
        """The streams entering each block at the last token of the task's clean test prompts."""
        asked = self._asked(task)
        return self._cell("hidden", HiddenStates, subject, task, lambda model: _hidden(model, asked), prompts=asked)

    def sweep(self, base: Subject, task: Task, vector: InstructionVector) -> SteeringSweep:
        """Where the base's vector works on the base: bare validation prompts, layer by scale."""
        config = self.config
        bare = self._bare(task, "validation", config.n_validation)

        def compute(model: HookedTransformer) -> SteeringSweep:
            return steering_sweep(model, vector, bare, config.tried_layers(model.cfg.n_layers), config.scales)

        return self._cell(
            "sweep", SteeringSweep, base, task, compute, "layers", "scales", vector=_told(vector), prompts=bare
        )

    def recovery(
        self, subject: Subject, task: Task, vectors: Mapping[str, InstructionVector], layer: int, scale: float
    ) -> ConditionComparison:
        """Bare and clean test prompts, and bare ones with each of the vectors added; random ones beside them."""
        bare, asked = self._bare(task, "test", self.config.n_test), self._asked(task)

        def compute(model: HookedTransformer) -> ConditionComparison:
            conditions: dict[str, Condition] = {"bare": (bare, None), "clean": (asked, None)}
            added = dict(vectors)
            for seed in self.config.random_seeds:
                added[f"random vector {seed}"] = random_vector(vectors[BASE_VECTOR], seed=seed)
            for name, vector in added.items():
                conditions[name] = (bare, steer(model, vector, layer, scale))
            return compare_conditions(model, conditions, task=task.name, layer=layer, scale=scale)

        told: dict[str, Any] = {name: _told(vector) for name, vector in vectors.items()}
        return self._cell(
            "recovery", ConditionComparison, subject, task, compute, "random_seeds", prompts=[*bare, *asked],
            layer=layer, scale=scale, vectors=told,
        )  # fmt: skip

    def weights(self, subject: Subject, base: Subject) -> WeightChange:
        """How far each head's matrices are from the base's, which are read layer by layer from a file."""

        def compute(model: HookedTransformer) -> WeightChange:
            tensors, _ = load_tensors(self.attention(base))
            changes = [
                relative_change(
                    attention_weights(model, layer),
                    {name: tensors[f"{layer}.{name}"] for name in MATRICES},
                    model.cfg.n_heads,
                )
                for layer in range(model.cfg.n_layers)
            ]
            return WeightChange(torch.stack(changes, 1), provenance=provenance(model))

        return self._cell("weights", WeightChange, subject, None, compute, base=_identity(base))

    def keep_attention(self, base: Subject) -> None:
        """Write the base's attention matrices to a file, so that no second model is held beside a checkpoint."""
        kept, of = self.attention(base), {"of": _mark(_identity(base))}
        if kept.exists():
            try:
                if load_tensors(kept)[1] == of:
                    return
                warnings.warn(f"ivlens: {kept} is another model's; it is written again", stacklevel=2)
            except RecordError as error:
                warnings.warn(f"ivlens: {error}; it is written again", stacklevel=2)
        model = base.model()
        tensors = {
            f"{layer}.{name}": weight.cpu().contiguous()
            for layer in range(model.cfg.n_layers) for name, weight in attention_weights(model, layer).items()
        }  # fmt: skip
        save_tensors(kept, tensors, of)

    def attention(self, base: Subject) -> Path:
        """The file that ``keep_attention`` writes."""
        return self.folder / f"attention-{_mark(_identity(base))}.safetensors"

    def _read(
        self, model: HookedTransformer, task: Task, clean: list[Prompt], corrupted: list[Prompt],
        heads: tuple[Head, ...] | None,
    ) -> HeadReading:  # fmt: skip
        config = self.config
        means = [mean_head_activations(model, clean[at :: config.groups]) for at in range(config.groups)]
        whole = replace(means[0], values=torch.stack([each.values for each in means]).mean(0), n=len(clean))
        effects = indirect_effects(model, corrupted, whole, metric=config.metric)
        own = tuple(effects.top(config.k))
        heads = heads or own
        at = tuple(torch.tensor(heads).T)
        return HeadReading(
            effects,
            torch.stack([each.values[at] for each in means]),
            torch.stack([instruction_vector(model, each, heads).parts for each in means]),
            torch.stack([instruction_vector(model, each, own).values for each in means]),
            heads,
            provenance=provenance(model, task=task.name, clean=len(clean)),
        )

    def _cell(
        self, measure: str, kind: type[R], subject: Subject, task: Task | None,
        compute: Callable[[HookedTransformer], R], *fields: str, prompts: Sequence[Prompt] = (), **settings: Any,
    ) -> R:  # fmt: skip
        """The cell if it is kept, or else computed on the subject's model; the key holds all that it depends on."""
        model = _identity(subject)
        key = {name: getattr(self.config, name) for name in fields} | settings
        key |= {"measure": [measure, MEASURES], "model": model, "prompts": _hash([repr(each) for each in prompts])}
        name = ".".join([_mark(model), *([] if task is None else [safe_name(task.name)]), measure, _mark(key)])

        def run() -> R:
            self.say(f"{subject.name}: {measure}" + ("" if task is None else f" of {task.name}"))
            return compute(subject.model())

        return load_or_compute(self.folder / f"{name}.safetensors", kind, key, run)

    def _clean(self, task: Task) -> list[Prompt]:
        config = self.config
        count = _at_most(config.n_clean, task, "train") // config.groups * config.groups
        return task.prompts(count, shots=config.shots, split="train", seed=config.seed)

    def _corrupted(self, task: Task) -> list[Prompt]:
        config = self.config
        return task.prompts(
            _at_most(config.n_corrupted, task, "train"), corruption=config.corruption, shots=config.shots,
            split="train", seed=config.seed,
        )  # fmt: skip

    def _asked(self, task: Task) -> list[Prompt]:
        config = self.config
        n = _at_most(config.n_test, task, "test")
        return task.prompts(n, shots=config.shots, split="test", seed=config.seed)

    def _bare(self, task: Task, split: str, n: int) -> list[Prompt]:
        n = _at_most(n, task, split)
        return task.prompts(n, shots=0, instruction=False, split=split, seed=self.config.seed)


def vector_of(reading: HeadReading, task: Task, *, reselected: bool = False) -> InstructionVector:
    """The instruction vector that a reading holds: of the base's heads, or of those chosen anew."""
    parts = reading.parts.mean(0)
    if reselected:
        values = reading.reselected.mean(0)
        return InstructionVector(values, values.new_zeros(0, len(values)), (), task.name, provenance=reading.provenance)
    return InstructionVector(parts.sum(0), parts, reading.heads, task.name, provenance=reading.provenance)


def _identity(subject: Subject) -> dict[str, Any]:
    """All that numbers on the subject depend on, beside what is asked: the model, the packages, the kind of device."""
    return identity(subject.facts) | {"device": subject.facts["device"]}


def _hash(told: Any) -> str:
    return sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _mark(told: Any) -> str:
    """A hash short enough for a file's name; what it stands for is in the file."""
    return _hash(told)[:12]


def _told(vector: InstructionVector) -> str:
    """A vector in a key: by its values."""
    return sha256(vector.values.contiguous().numpy().tobytes()).hexdigest()[:16]


def _at_most(n: int, task: Task, split: str) -> int:
    return min(n, len(task.split(split)))


@torch.no_grad()
def _hidden(model: HookedTransformer, prompts: list[Prompt]) -> HiddenStates:
    pairs = [(ids, ()) for ids in prompt_ids(model, prompts)]
    cfg = model.cfg
    dtype = torch.float64 if cfg.dtype == torch.float64 else torch.float32
    states: Float[Tensor, "prompt layer d_model"] = torch.zeros(len(pairs), cfg.n_layers, cfg.d_model, dtype=dtype)
    for places, batch in batches(pairs, 32):

        def keep(layer: int, places: list[int] = places) -> Callable[[Tensor], None]:
            def look(stream: Float[Tensor, "batch pos d_model"]) -> None:
                states[places, layer] = stream[last_token(stream)].to(states)

            return look

        with hooked(model, {resid_pre_name(layer): keep(layer) for layer in range(cfg.n_layers)}):
            final_residual(model, padded(batch, cfg.device))
    odd = (~states.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
    refuse_odd("hidden states", [prompt.text for prompt in prompts], odd)
    return HiddenStates(states, provenance=provenance(model, prompts=len(prompts)))
