"""``continual``: tasks learned one after the other, every ability measured after each of them."""

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch

from ..checks import checked
from ..effects import load_or_compute_vector
from ..errors import ArgumentError, DivergedError, few
from ..files import held
from ..models import (
    HookedTransformer,
    Model,
    export_adapter,
    identity,
    lora_factors,
    merge_lora,
    only_hooked,
    provenance,
    unchanged,
)
from ..progress import ProgressBar
from ..records import ContinualRun
from ..records.folders import check_folder
from ..scoring import all_ids
from ..tasks import Prompt, Task, as_tasks, is_instructed, load_task, word_tasks
from ..text import plural
from ..vectors import InstructionVector
from ..vocabulary import ContinualRole, Split, check_count
from .continual_config import ContinualConfig
from .loop import fine_tune, vector_digest
from .monitor import Ability, measured_row
from .processes import Processes, joined_processes
from .sampler import rehearsal_prompts
from .sequence_files import Rows, SequenceFiles
from .step import check_vector
from .trainable import changed_names, check_trainable

VECTOR_SHOTS = 2  # demonstrations in the prompts that heads are located with
MEMORY = 8  # examples of each old ability and earlier task, for guidance by replay
OF_TRAINING = ("training", "epochs", "n_train")  # settings that what is measured of the base does not depend on
Abilities = list[tuple[ContinualRole, Ability]]
Adapter = Mapping[tuple[int, str], tuple[torch.Tensor, torch.Tensor]]  # factors A and B by layer and target
log = logging.getLogger("ivlens")


@checked
@torch.inference_mode(False)
def continual(
    model: Model,
    sequence: Iterable[Task | str],
    config: ContinualConfig | None = None,
    *,
    keep: Iterable[Task | str] = (),
    general: Iterable[Task | str] = (),
    out: str | Path | None = None,
    like: ContinualRun | None = None,
    vector: InstructionVector | None = None,
) -> ContinualRun:
    """Train the model in place on tasks one after the other, and measure all abilities before, between and after.

    As in arXiv 2406.12227 and 2502.11019: the guidance's base is the model before each task, and so is the model that
    a new task's vector is computed on; the vectors of old abilities are those of the base. Replay has examples of old
    abilities and of earlier tasks of the sequence; rehearsal has the instructions of built-in tasks that are neither
    learned nor measured. In several processes, as ``accelerate launch`` starts them, each takes its part of every
    step's prompts; the first one measures and writes.

    Args:
        model: the base, in float32 or float64.
        sequence: the tasks to learn, in this order (``load_sequence`` loads the papers').
        config: how they are trained and measured (None: ``ContinualConfig()``).
        keep: old abilities: asked with their instruction, by their cloze where they have one, and compared in their
            vectors with the base.
        general: general abilities, asked without and with demonstrations.
        out: folder for the record, the log of each task, its adapter, and the weights after the last finished task;
            the same call on the same base resumes the run, to the same weights.
        like: another run; where it has the same base, abilities and settings but for those of training, as variants of
            an ablation have, what it measured of the base is not measured again.
        vector: what the guidance adds during all tasks, as preventative steering does of what the model should not
            become (None: each new task's own vector).

    Returns:
        What was measured of every ability after each task.

    Raises:
        ArgumentError: no tasks, two of one name, one without what the guidance or a vector needs, or a vector that the
            guidance has no use for.
        PromptError: a prompt that cannot be tokenised or is longer than the model's context.
        HookError: hooks or edits are active on the model.
        MismatchError: ``out`` holds a run with other settings, or the vector is of another kind of model.
        DivergedError: a loss was not finite.
        RecordError: ``out`` cannot be written, holds another command's results, or another process is at work in it.

    Example:
        >>> config = iv.ContinualConfig(iv.TrainingConfig(steps=2, warmup=1), vectors=False, n_test=4)
        >>> iv.continual(model, [task, new_task], config).matrix().shape
        (3, 2)
    """
    model = only_hooked(model, "training")
    config = config or ContinualConfig()
    tasks, kept, others = (as_tasks(each) for each in (sequence, keep, general))
    _check_tasks(tasks, kept, others, config, vector)
    check_trainable(model, config.training)
    check_folder(None if out is None else Path(out), "continual")
    processes = joined_processes()
    processes.check(config.training.guidance)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch if out is None else out)
        if processes.is_first:
            stack.enter_context(held(folder))
        run = _Sequence.of(model, tasks, kept, others, config, vector, folder, out is not None, processes)
        if like is not None:
            run.take_base(like)
        return run.run()


def _check_tasks(
    tasks: Sequence[Task], kept: Sequence[Task], general: Sequence[Task], config: ContinualConfig,
    vector: InstructionVector | None,
) -> None:  # fmt: skip
    """Raise ArgumentError where nothing is to be learned, for a name twice, or a vector without origin or use."""
    if not tasks:
        raise ArgumentError("one task or more to learn", "none")
    for group in ([*tasks, *kept], general):
        names = [task.name for task in group]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ArgumentError("tasks of different names to learn and to keep", f"{twice[0]!r} twice")
    if both := {task.name for task in tasks} & {task.name for task in general}:
        raise ArgumentError("general abilities other than the tasks to learn", f"{min(both)!r}")
    needs = config.training.guidance.needs
    if vector is not None and "vector" not in needs:
        raise ArgumentError("guidance that adds a vector, for vector=", few(config.training.guidance.facts))
    own_vectors = "vector" in needs and vector is None
    with_vectors = [*(tasks if own_vectors else ()), *(kept if config.vectors else ())]
    if "adapters" in needs and config.training.lora is None:
        raise ArgumentError("lora= for guidance that compares adapters", "full training")
    if "replay" in needs and not kept:
        raise ArgumentError("tasks to keep, for guidance by old examples: the first task has no others", "none")
    if bare := [task.name for task in with_vectors if not is_instructed(task)]:
        raise ArgumentError("tasks with instructions, from which vectors are made", f"none in {few(bare)}")


@dataclass
class _Sequence:
    """A run: the model, what it learns, what is measured, and where that is kept; ``rows`` are what was measured.

    ``vector``: what the guidance adds in place of each task's own; ``resumable``: whether the folder stays, so that
    states and weights are worth their room; ``adapters``: those of the tasks learned here, by stage, for O-LoRA.
    """

    model: HookedTransformer
    tasks: Sequence[Task]
    kept: Sequence[Task]
    abilities: Abilities
    config: ContinualConfig
    vector: InstructionVector | None
    files: SequenceFiles
    resumable: bool
    processes: Processes
    origin: dict[str, Any]
    rows: Rows = field(default_factory=dict)
    adapters: dict[int, Adapter] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: HookedTransformer, tasks: Sequence[Task], kept: Sequence[Task], general: Sequence[Task],
        config: ContinualConfig, vector: InstructionVector | None, folder: Path, resumable: bool, processes: Processes,
    ) -> "_Sequence":  # fmt: skip
        """The run, checked as far as it can be before anything is computed."""
        groups = {"sequence": tasks, "keep": kept, "general": general}
        digests = {role: [[task.name, task.digest] for task in group] for role, group in groups.items()}
        given = {} if vector is None else {"vector": vector_digest(vector)}
        origin = provenance(model, continual=config.facts, tasks=digests, **given)
        key = origin["settings"] | {
            name: each for name, each in identity(origin["model"]).items() if name != "versions"
        }
        names = tuple(task.name for task in tasks)
        files = SequenceFiles(folder, json.loads(json.dumps(key, default=str)), names)
        found = cls(model, tasks, kept, [], config, vector, files, resumable, processes, origin, files.load_rows())
        found.abilities = [*found._new(), *found._general(general)]
        for term in config.training.terms:
            term.check(model.cfg.n_layers, config.training.learning_rate)
        for _, ability in [*found.abilities, *found._old({})]:
            ability.check(model)
        found._check_training()
        vectors = {task.name: found._vector(task, "base") for task in kept} if config.vectors else {}
        found.abilities += found._old(vectors)
        return found

    def run(self) -> ContinualRun:
        """Learn and measure what is not yet."""
        done = self.files.load_weights(self._weights())
        for stage in range(1, done + 1) if self.processes.is_first else ():  # a kill may have left them
            self._drop_states(stage)
        self._measure(done)
        for stage, task in enumerate(self.tasks[done:], done + 1):
            log.info("task %d of %d: %s", stage, len(self.tasks), task.name)
            self._learn(stage, task)
            self._measure(stage)
        return self._record()

    def take_base(self, other: ContinualRun) -> None:
        """Take what another run measured of the base, where this run would measure the same."""
        if _of_measuring(other.provenance.get("key", {})) == _of_measuring(self.files.key):
            found = {(0, row["role"], row["ability"]): row for row in other.measured if row["stage"] == 0}
            self.rows = found | self.rows
            if self.processes.is_first:  # a resumed run may come without the other, when the base is no longer there
                self.files.save(self._record())

    def _check_training(self) -> None:
        """Raise what learning a task would raise only when it is its turn."""
        config, needs = self.config, self.config.training.guidance.needs
        own_vectors = "vector" in needs and self.vector is None
        if own_vectors:
            check_count(config.k, self.model.cfg.n_layers * self.model.cfg.n_heads)
        for task in self.tasks:
            all_ids(self.model, self._prompts(task, "train", config.n_train, config.shots))
            if own_vectors:
                all_ids(self.model, self._prompts(task, "train", config.n_clean, VECTOR_SHOTS, whole=True))
            if "rehearse" in needs:  # of thousands the longest in letters, which is nearly so in tokens
                all_ids(self.model, [max(self._rehearsal(task), key=lambda prompt: len(prompt.text))])
        if "replay" in needs:
            all_ids(self.model, self._memory(len(self.tasks)))
        if self.vector is not None:
            check_vector(self.model, config.training, self.vector)

    def _new(self) -> Abilities:
        """The tasks of the sequence, asked as they are trained."""
        return [("new", Ability(task.name, self._test_prompts(task, self.config.shots))) for task in self.tasks]

    def _general(self, tasks: Sequence[Task]) -> Abilities:
        """General abilities without and with demonstrations."""
        shots: dict[ContinualRole, int] = {"zero-shot": 0, "in-context": self.config.context_shots}
        return [(role, Ability(task.name, self._test_prompts(task, n))) for role, n in shots.items() for task in tasks]

    def _old(self, vectors: Mapping[str, InstructionVector]) -> Abilities:
        """Old abilities with their instruction, and their knowledge without it."""
        config, n = self.config, self.config.n_test
        found: Abilities = [
            (
                "keep",
                Ability(task.name, self._test_prompts(task, config.keep_shots), vectors.get(task.name), config.layer),
            )
            for task in self.kept
        ]
        for task in self.kept:
            if task.cloze is not None:
                prompts = task.cloze_prompts(min(n, len(task.split("test"))), split="test")
                found.append(("knowledge", Ability(task.name, tuple(prompts))))
        return found

    def _test_prompts(self, task: Task, shots: int) -> tuple[Prompt, ...]:
        return tuple(self._prompts(task, "test", self.config.n_test, shots))

    def _prompts(
        self, task: Task, split: Split, n: int | None, shots: int, seed: int = 0, whole: bool = False
    ) -> list[Prompt]:
        """Prompts of a task's split, ``n`` at most; ``whole``: not cut."""
        config, size = self.config, len(task.split(split))
        if not size:
            raise ArgumentError(f"examples in the {split} split of {task.name!r}", "none")
        return task.prompts(
            size if n is None else min(n, size), shots=shots, split=split, format=config.format, seed=seed,
            tokenizer=self.model.tokenizer, max_tokens=None if whole else config.max_tokens, cut=config.cut,
        )  # fmt: skip

    def _vector(self, task: Task, of: str) -> InstructionVector:
        """The instruction vector of a task in the model as it is; kept as the vector ``of`` the base or of a stage."""
        config, available = self.config, len(task.split("train"))
        n_clean, n_corrupted = min(config.n_clean, available), min(config.n_corrupted, available)
        log.info("%s: the instruction vector", task.name)
        path = self.files.of_vector(task.name, of)
        return load_or_compute_vector(self.model, path, task, config.k, n_clean, n_corrupted, format=config.format)

    def _guiding(self, task: Task, stage: int) -> InstructionVector:
        """The vector that was given, or the task's in the model before it."""
        return self.vector or self._vector(task, f"before-{stage}")

    def _learn(self, stage: int, task: Task) -> None:
        """Train on a task, and keep the weights after it in place of those before."""
        config, training = self.config, self.config.training
        needs, folder = training.guidance.needs, self.files.of_stage(stage)
        prompts = self._prompts(task, "train", config.n_train, config.shots)
        steps, seed = config.steps(len(prompts)), self._seed(stage)
        run = fine_tune(
            self.model, prompts, replace(training, steps=steps, seed=seed, evaluate_every=0),
            vector=self._guiding(task, stage) if "vector" in needs else None,
            rehearse=self._rehearsal(task) if "rehearse" in needs else (),
            replay=self._memory(stage) if "replay" in needs else (),
            adapters=[self._adapter(earlier) for earlier in range(1, stage)] if "adapters" in needs else (),
            out=folder if self.resumable else None,
        )  # fmt: skip
        if run.stopped:
            raise DivergedError(f"a finite loss on task {stage}, {task.name}", run.stopped, "lower the learning rate")
        writes = self.resumable and self.processes.is_first
        if writes:
            run.save(folder / "run.safetensors", overwrite=True)
        if training.lora is not None:
            if writes:
                export_adapter(self.model, folder / "adapter")
            if "adapters" in needs:
                self.adapters[stage] = lora_factors(self.model)
            merge_lora(self.model)
        if writes:
            self.files.save_weights(stage, self._weights())
            self._drop_states(stage)

    def _adapter(self, stage: int) -> Adapter | Path:
        """The adapter of an earlier task: in memory, since only the first process has files, or an earlier call's."""
        return self.adapters.get(stage) or self.files.of_stage(stage)

    def _seed(self, stage: int) -> int:
        """The seed of a task's training; with LoRA another for each, or all adapters would start from the same A."""
        seed = self.config.training.seed
        if self.config.training.lora is None or stage == 1:
            return seed
        return Random(f"{seed}/{stage}").getrandbits(31)

    def _drop_states(self, stage: int) -> None:
        """Remove the states of a stage whose weights are kept; LoRA's are small, and O-LoRA reads their factors."""
        if self.config.training.lora is None:
            self.files.drop_states(stage)

    def _rehearsal(self, task: Task) -> list[Prompt]:
        named = {each.name for _, each in self.abilities}
        others = [load_task(name) for name in word_tasks() if name not in named]
        return rehearsal_prompts(
            task, others, format=self.config.format, tokenizer=self.model.tokenizer, max_tokens=self.config.max_tokens,
            cut=self.config.cut,
        )  # fmt: skip

    def _memory(self, stage: int) -> list[Prompt]:
        """Some training prompts of old abilities and of earlier tasks."""
        config = self.config
        old = [(task, config.keep_shots) for task in self.kept]
        earlier = [(task, config.shots) for task in self.tasks[: stage - 1]]
        drawn = (self._prompts(task, "train", MEMORY, shots, config.training.seed) for task, shots in (*old, *earlier))
        return [prompt for prompts in drawn for prompt in prompts]

    def _measure(self, stage: int) -> None:
        """Measure what is not known yet of the abilities after a stage; each is kept as soon as it is measured."""
        due = [pair for pair in self._wanted(stage) if (stage, pair[0], pair[1].name) not in self.rows]
        if not (due and self.processes.is_first):
            return
        which = "the base" if stage == 0 else f"after {plural(stage, 'task')}"
        log.info("measuring %s: %s", which, "one ability" if len(due) == 1 else f"{len(due)} abilities")
        with unchanged(self.model), ProgressBar(total=len(due), desc="measuring", unit="ability", leave=False) as bar:
            for role, ability in due:
                row = {"stage": stage, "role": role} | measured_row(self.model, ability, per_prompt=True)
                self.rows[stage, role, ability.name] = row
                self.files.save(self._record())
                bar.update()

    def _wanted(self, stage: int) -> Abilities:
        """The abilities that are measured after a stage."""
        if self.config.measure_after == "each" or stage in (0, len(self.tasks)):
            return self.abilities
        return [
            ("new", each) for role, each in self.abilities if (role, each.name) == ("new", self.tasks[stage - 1].name)
        ]

    def _record(self) -> ContinualRun:
        rows = [self.rows[key] for key in self._order()]
        return ContinualRun(self.files.names, tuple(rows), provenance=self.origin | {"key": self.files.key})

    def _order(self) -> Iterator[tuple[int, str, str]]:
        """The keys of the rows by stage, and in each as abilities were given."""
        for stage in range(len(self.tasks) + 1):
            keys = [(stage, role, each.name) for role, each in self.abilities]
            yield from (key for key in keys if key in self.rows)

    def _weights(self) -> dict[str, torch.Tensor]:
        """The weights that training changes."""
        names = changed_names(self.model, self.config.training)
        return {name: each for name, each in self.model.named_parameters() if name in names}


def _of_measuring(key: Mapping[str, Any]) -> dict[str, Any]:
    """A run's key without what only its training depends on; the number of heads is of old abilities' vectors too."""
    settings = key.get("continual", {})
    without = (*OF_TRAINING, *(() if settings.get("vectors") else ("k",)))
    measuring = {name: each for name, each in settings.items() if name not in without}
    return {name: each for name, each in key.items() if name != "vector"} | {"continual": measuring}
