"""Cells: one measure of one task on one checkpoint, computed once for its content and kept."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..activations import mean_head_activations
from ..effects import indirect_effects
from ..errors import refuse_odd
from ..models import (
    HookedTransformer,
    attention_weights,
    batches,
    final_residual,
    hooked,
    last_token,
    padded,
    provenance,
    relative_change,
    resid_pre_name,
)
from ..records import (
    MATRICES,
    Comparison,
    Evaluation,
    Head,
    HeadReading,
    HiddenStates,
    Record,
    SteeringSweep,
    WeightChange,
    recall,
    write_atomically,
)
from ..scoring import evaluate, prompt_ids
from ..steering import compare_conditions, random_vector, steer, steering_sweep
from ..steering.compare import Condition
from ..tasks import Prompt, Task
from ..vectors import InstructionVector, instruction_vector
from .config import ComparisonConfig
from .subject import Subject

R = TypeVar("R", bound=Record)
# conditions of a recovery
BASE_VECTOR, OWN_VECTOR, OTHER_VECTOR = "bare + base's vector", "bare + own vector", "bare + vector of another task"


@dataclass(frozen=True)
class Cells:
    """The cells of a comparison in ``folder``; ``say`` is told of each that is computed."""

    folder: Path
    config: ComparisonConfig
    say: Callable[[str], None]

    def answers(self, subject: Subject, task: Task) -> Evaluation:
        """How the checkpoint answers the task's clean prompts."""
        return self._cell(
            "answers", Evaluation, subject, task, lambda model: evaluate(model, self._asked(task)), "test"
        )

    def knowledge(self, subject: Subject, task: Task) -> Evaluation | None:
        """How it completes the task's cloze texts; nothing for a task without a cloze."""
        if task.cloze is None:
            return None
        config = self.config
        prompts = task.cloze_prompts(_at_most(config.test, task, "test"), split="test", seed=config.seed)
        return self._cell("knowledge", Evaluation, subject, task, lambda model: evaluate(model, prompts), "test")

    def reading(self, subject: Subject, task: Task, heads: tuple[Head, ...] | None) -> HeadReading:
        """The task's head effects and vector on the checkpoint; ``heads`` are the base's, None on the base itself."""
        fields = ("clean", "groups", "corrupted", "corruption", "metric", "heads")
        settings = {"base_heads": heads}
        return self._cell(
            "heads", HeadReading, subject, task, lambda model: self._read(model, task, heads), *fields, **settings
        )

    def hidden(self, subject: Subject, task: Task) -> HiddenStates:
        """The streams entering each block at the last token of the task's clean test prompts."""
        return self._cell(
            "hidden", HiddenStates, subject, task, lambda model: _hidden(model, self._asked(task)), "test"
        )

    def sweep(self, base: Subject, task: Task, vector: InstructionVector) -> SteeringSweep:
        """Where the base's vector works on the base: bare validation prompts, layer by scale."""
        config = self.config

        def compute(model: HookedTransformer) -> SteeringSweep:
            bare = self._bare(task, "validation", config.validation)
            return steering_sweep(model, vector, bare, config.tried_layers(model.cfg.n_layers), config.scales)

        vectors = {"vector": _told(vector)}
        return self._cell("sweep", SteeringSweep, base, task, compute, "validation", "layers", "scales", **vectors)

    def recovery(
        self, subject: Subject, task: Task, vectors: Mapping[str, InstructionVector], layer: int, scale: float
    ) -> Comparison:
        """Bare and clean test prompts, and bare ones with each of the vectors added; random ones beside them."""

        def compute(model: HookedTransformer) -> Comparison:
            bare = self._bare(task, "test", self.config.test)
            conditions: dict[str, Condition] = {"bare": (bare, None), "clean": (self._asked(task), None)}
            added = dict(vectors)
            for seed in self.config.random_seeds:
                added[f"random vector {seed}"] = random_vector(vectors[BASE_VECTOR], seed=seed)
            for name, vector in added.items():
                conditions[name] = (bare, steer(model, vector, layer, scale))
            return compare_conditions(model, conditions, task=task.name, layer=layer, scale=scale)

        told: dict[str, Any] = {name: _told(vector) for name, vector in vectors.items()}
        place = {"layer": layer, "scale": scale, "vectors": told}
        return self._cell("recovery", Comparison, subject, task, compute, "test", "random_seeds", **place)

    def weights(self, subject: Subject, base: Subject) -> WeightChange:
        """How far each head's matrices are from the base's, which are read layer by layer from a file."""

        def compute(model: HookedTransformer) -> WeightChange:
            layers = range(model.cfg.n_layers)
            with safe_open(self.attention(base), "pt") as file:
                changes = [
                    relative_change(
                        attention_weights(model, layer),
                        {name: file.get_tensor(f"{layer}.{name}") for name in MATRICES},
                        model.cfg.n_heads,
                    )
                    for layer in layers
                ]
            return WeightChange(torch.stack(changes, 1), provenance=provenance(model))

        return self._cell("weights", WeightChange, subject, None, compute, base=base.facts["weights_sha256"])

    def keep_attention(self, base: Subject) -> None:
        """Write the base's attention matrices to a file, so that no second model is held beside a checkpoint."""
        kept = self.attention(base)
        if kept.exists():
            return
        model = base.model()
        tensors = {
            f"{layer}.{name}": weight.cpu().contiguous()
            for layer in range(model.cfg.n_layers) for name, weight in attention_weights(model, layer).items()
        }  # fmt: skip
        write_atomically(kept, lambda temporary: save_file(tensors, temporary))

    def attention(self, base: Subject) -> Path:
        """The file that ``keep_attention`` writes."""
        return self.folder / f"attention-{base.facts['weights_sha256'][:16]}.safetensors"

    def _read(self, model: HookedTransformer, task: Task, heads: tuple[Head, ...] | None) -> HeadReading:
        config = self.config
        count = _at_most(config.clean, task, "train") // config.groups * config.groups
        draw: dict[str, Any] = {"shots": config.shots, "split": "train", "seed": config.seed}
        clean = task.prompts(count, **draw)
        means = [mean_head_activations(model, clean[at :: config.groups]) for at in range(config.groups)]
        whole = replace(means[0], values=torch.stack([each.values for each in means]).mean(0), n=count)
        broken = task.prompts(_at_most(config.corrupted, task, "train"), corruption=config.corruption, **draw)
        effects = indirect_effects(model, broken, whole, metric=config.metric)
        own = tuple(effects.top(config.heads))
        heads = heads or own
        at = tuple(torch.tensor(heads).T)
        return HeadReading(
            effects,
            torch.stack([each.values[at] for each in means]),
            torch.stack([instruction_vector(model, each, heads).parts for each in means]),
            torch.stack([instruction_vector(model, each, own).values for each in means]),
            heads,
            provenance=provenance(model, task=task.name, clean=count),
        )

    def _cell(
        self, measure: str, kind: type[R], subject: Subject, task: Task | None,
        compute: Callable[[HookedTransformer], R], *fields: str, **settings: Any,
    ) -> R:  # fmt: skip
        """The cell if it is kept, or else computed on the subject's model; the key holds all that it depends on."""
        facts = subject.facts
        key = {name: getattr(self.config, name) for name in (*fields, "shots", "seed")} | settings
        key |= {"weights": facts["weights_sha256"], "dtype": facts["dtype"], "ivlens": version("ivlens")}
        key |= {} if task is None else {"task": task.digest}
        of = [] if task is None else [task.name]
        mark = sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
        name = ".".join([facts["weights_sha256"][:12], *of, measure, mark])

        def run() -> R:
            self.say(f"{subject.name}: {measure}" + ("" if task is None else f" of {task.name}"))
            return compute(subject.model())

        return recall(self.folder / f"{name}.safetensors", kind, key, run)

    def _asked(self, task: Task) -> list[Prompt]:
        config = self.config
        n = _at_most(config.test, task, "test")
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
