"""``repair``: as much as possible of what was forgotten, at almost nothing of what was learned, without training."""

import copy
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch
from tqdm.auto import tqdm

from ..checks import Count, Fraction, Natural, Seed, checked
from ..errors import ArgumentError, MismatchError
from ..files import held, short_hash
from ..models import Model, check_device, identity, package_versions
from ..records import Answers, Repair, load_or_compute
from ..records.repair import BASE, KEEP, LEARNED, OTHER, REPAIRED, TUNED
from ..scoring import score_answers
from ..tasks import Prompt, Task, as_tasks, clean_instruction, list_tasks
from ..vocabulary import FormatName, Split
from .mixing import Fractions, MixedWeights, mixed_weights, undone
from .prompts import check_same_tokens
from .search import KINDS, Plan, Search, Trial
from .sources import CheckpointSource, CheckpointUnderTest, check_sources, name_sources

SPLITS: tuple[Split, ...] = ("validation", "test")
ABILITY = 0.3  # accuracy of the base from which a task counts as its ability
OTHERS = 6  # built-in tasks that a repair is reported on by default
log = logging.getLogger("ivlens")


@checked
@dataclass(frozen=True)
class RepairConfig:
    """What a repair tries, and on how many prompts it chooses and reports.

    Args:
        fractions: of the change, everywhere, for the interpolations.
        depths: fractions in the first and in the last layer, for the changes by depth (LiNeS, 2410.17146).
        n_bands: bands of layers that are put back on their own, and that the greedy search moves.
        n_greedy: trials of the greedy search, at most.
        n_validation: validation prompts of each task to choose on, at most as many as the split has.
        n_test: test prompts of each task to report on, at most as many as the split has.
        shots: demonstrations in the prompts of old tasks.
        learned_shots: those in the prompts of learned tasks, which are usually trained without any.
        random_seeds: seeds of the controls.
        seed: seed of the prompts.
        instruction: see ``CheckpointConfig``.
        format: see ``CheckpointConfig``.
        batch_size: answers per forward pass.

    Raises:
        ArgumentError: naming the field that is outside its values.

    Example:
        >>> iv.RepairConfig(fractions=(0.5,), n_greedy=0).n_validation
        20
    """

    fractions: tuple[Fraction, ...] = (0.85, 0.7, 0.5, 0.3, 0.15)
    depths: tuple[tuple[Fraction, Fraction], ...] = ((0.5, 1.0), (0.2, 0.8), (0.0, 1.0), (0.0, 0.5))
    n_bands: Count = 3
    n_greedy: Natural = 16
    n_validation: Count = 20
    n_test: Count = 30
    shots: Natural = 2
    learned_shots: Natural = 0
    random_seeds: tuple[Seed, ...] = (0, 1, 2)
    seed: Seed = 0
    instruction: bool | int | str | None = None
    format: FormatName | Callable[..., str] = "labelled"
    batch_size: Count = 32

    @property
    def plan(self) -> Plan:
        """What the search tries."""
        return Plan(self.fractions, self.depths, self.n_bands, self.n_greedy)

    def prompts(self, task: Task, split: Split, tokenizer: Any, *, learned: bool = False) -> list[Prompt]:
        """Clean prompts of a task out of a split.

        Args:
            task: the task.
            split: "validation" or "test".
            tokenizer: for the chat format.
            learned: whether it is a learned task.

        Returns:
            One prompt per query.

        Raises:
            ArgumentError: neither instruction nor demonstrations.

        Example:
            >>> len(iv.RepairConfig(n_test=2).prompts(task, "test", None))
            2
        """
        count = min(self.n_test if split == "test" else self.n_validation, len(task.split(split)))
        shots = self.learned_shots if learned else self.shots
        return task.prompts(
            count, split=split, seed=self.seed, shots=shots, format=self.format, tokenizer=tokenizer,
            instruction=clean_instruction(task, self.instruction, shots),
        )  # fmt: skip


@checked
def repair(
    base: Any,
    tuned: Any,
    keep: Sequence[Task | str],
    learned: Sequence[Task | str],
    *,
    others: Sequence[Task | str] | None = None,
    tolerance: Fraction = 0.02,
    config: RepairConfig | None = None,
    out: str | Path | None = None,
    **options: Any,
) -> Repair:
    """Put weights of the base back into a tuned model, wherever that returns old abilities and costs nothing new.

    Nothing is trained. The weights become ``w_base + f (w_tuned - w_base)``, with a fraction f for each layer's
    attention and MLP. Tried are, cheapest first, one fraction everywhere, fractions that rise with depth, bands of
    layers, and a greedy search from the best of these. A guard refuses what loses more than ``tolerance`` of accuracy
    on the learned tasks. Both are judged on validation prompts; reported are test prompts, of the tasks to keep, of
    ``others`` that nothing was chosen on, and of the learned ones, beside random controls. ``repaired_model`` gives
    the model.

    One model is in memory at a time; files of its weights lie in ``out``, or in a temporary folder, meanwhile. A model
    object that is given as ``tuned`` is changed while this runs, and is what it was afterwards.

    Args:
        base: anything that ``load_model`` reads.
        tuned: a checkpoint of the base; see ``compare_checkpoints``.
        keep: old tasks to choose on, or names of built-in ones or files.
        learned: new tasks, which the guard holds.
        others: tasks to report on beside these (None: built-in ones that the base can do).
        tolerance: accuracy that the learned tasks may lose, together, on the validation prompts.
        config: what is tried, on how many prompts (None: the defaults of ``RepairConfig``).
        out: folder for the answers, from which an interrupted repair resumes (None: a temporary one).
        options: options of ``load_model`` for both models: ``device``, ``dtype``, ``tokenizer``.

    Returns:
        What was chosen, and the answers of base, tuned, repaired and control models to the test prompts.

    Raises:
        ArgumentError: no tasks to keep or learned ones, or a task given twice; LoRA on a model.
        SourceError, UnsupportedError, DownloadError: a model cannot be loaded.
        MismatchError: the tuned model is no checkpoint of the base, or is the base.
        HookError: hooks are active on a model.
        RecordError: ``out`` cannot be written, or another process is at work in it.

    Example:
        >>> config = iv.RepairConfig(fractions=(0.5,), depths=(), n_greedy=0, n_validation=2, n_test=2, shots=1)
        >>> repaired = iv.repair(model, tuned, keep=[task], learned=[new_task], others=[], config=config)
        >>> repaired.correct.shape == (len(repaired.models), len(repaired.tasks))
        True
    """
    config = config or RepairConfig()
    tasks = {KEEP: as_tasks(keep), LEARNED: as_tasks(learned), OTHER: as_tasks(others or [])}
    names = [task.name for of_role in tasks.values() for task in of_role]
    if not tasks[KEEP] or not tasks[LEARNED] or len({*names}) < len(names):
        raise ArgumentError("tasks to keep and learned ones, none of them twice", ", ".join(names) or "none")
    if others is None:
        tasks[OTHER] = [task for task in as_tasks(list_tasks()) if task.name not in names]
    with tempfile.TemporaryDirectory() as scratch, held(scratch if out is None else out):
        folder = Path(scratch if out is None else out).absolute()
        first, second = _checkpoints(base, tuned, options, folder / "facts")
        tokenizer = first.tokenizer()
        prompts = {
            role: {split: _prompts(config, of_role, split, tokenizer, role == LEARNED) for split in SPLITS}
            for role, of_role in tasks.items()
        }  # fmt: skip
        with mixed_weights(first, second, Path(scratch)) as mixed:
            if first.facts["tokenizer_sha256"] != second.facts["tokenizer_sha256"]:
                every = [prompt for of_role in prompts.values() for split in of_role.values() for _, prompt in split]
                check_same_tokens(TUNED, tokenizer, second.tokenizer(), every)
            facts = {"base": first.facts, "tuned": second.facts}
            work = _Work(mixed, prompts, folder, facts, config.batch_size, {})
            return _repaired(work, config, tolerance, choose_others=others is None)


def _checkpoints(
    base: Any, tuned: Any, options: Mapping[str, Any], facts_folder: Path
) -> tuple[CheckpointUnderTest, CheckpointUnderTest]:
    """The two models, not loaded yet.

    Raises:
        SourceError: one of them does not exist.
    """
    check_device(options.get("device"))
    sources = [CheckpointSource(BASE, base), *name_sources({TUNED: tuned}, base)]
    check_sources(sources)
    first, second = (CheckpointUnderTest(each, each.options(options), facts_folder) for each in sources)
    return first, second


@checked
def repaired_model(base: Any, tuned: Any, record: Repair, **options: Any) -> Model:
    """The model that a repair chose, for ``export_hf`` or further use.

    Args:
        base: the base of the repair.
        tuned: its tuned model; a model object is not changed.
        record: what ``repair`` returned.
        options: options of ``load_model``, as they were for the repair.

    Returns:
        The tuned model with the record's fractions of its change.

    Raises:
        MismatchError: the models are not those of the repair.
        SourceError, UnsupportedError, DownloadError: a model cannot be loaded.

    Example:
        >>> iv.repaired_model(model, tuned, repaired).cfg.n_layers == model.cfg.n_layers
        True
    """
    fractions = Fractions(tuple(record.attention.tolist()), tuple(record.mlp.tolist()), record.rest)
    made = {BASE: record.provenance["settings"]["base"], TUNED: record.provenance["model"]}
    own = isinstance(tuned, (str, Path))  # loaded here, for nobody else
    with tempfile.TemporaryDirectory() as scratch:
        first, second = _checkpoints(base, tuned, options, Path(scratch))
        with mixed_weights(first, second, Path(scratch), restore=not own) as mixed:
            for name, checkpoint in ((BASE, first), (TUNED, second)):
                ours, theirs = (each["weights_sha256"][:12] for each in (checkpoint.facts, made[name]))
                if ours != theirs:
                    do = "give the models that were repaired"
                    raise MismatchError(f"the {name} model of the repair, {theirs}", ours, do)
            mixed.mix(fractions)
            return mixed.model if own else copy.deepcopy(mixed.model)


def _prompts(
    config: RepairConfig, tasks: Sequence[Task], split: Split, tokenizer: Any, learned: bool
) -> list[tuple[str, Prompt]]:
    """The prompts of several tasks, each with its task's name."""
    return [(task.name, prompt) for task in tasks for prompt in config.prompts(task, split, tokenizer, learned=learned)]


@dataclass
class _Work:
    """The mixed model, the prompts by role and split, and the answers that are kept in ``folder``."""

    mixed: MixedWeights
    prompts: dict[str, dict[Split, list[tuple[str, Prompt]]]]
    folder: Path
    facts: dict[str, dict[str, Any]]
    batch_size: int
    cache: dict[str, Answers]

    def answers(self, fractions: Fractions, role: str, split: Split = "validation") -> Answers:
        """Answers with these fractions of the change."""
        base = fractions == Fractions.uniform(len(fractions.mlp), 0.0)  # whose answers serve for every checkpoint
        weights = BASE if base else [list(fractions.attention), list(fractions.mlp), fractions.rest]
        return self._answers(partial(self.mixed.mix, fractions), weights, role, split)

    def random_change(self, like: Fractions, seed: int, role: str) -> Answers:
        """Test answers as far from the tuned weights as ``like`` is, in a random direction."""
        weights = ["random change", seed, list(like.attention), list(like.mlp), like.rest]
        return self._answers(partial(self.mixed.undo_at_random, like, seed), weights, role, "test")

    def _answers(self, change: Callable[[], None], weights: Any, role: str, split: Split) -> Answers:
        prompts = [prompt for _, prompt in self.prompts[role][split]]
        own = {BASE: self.facts[BASE]} if weights == BASE else self.facts
        key = {
            **{name: identity(each) | {"device": each["device"]} for name, each in own.items()},
            "weights": weights,
            "prompts": short_hash([repr(prompt) for prompt in prompts]),
        }
        name = short_hash(key)

        def compute() -> Answers:
            change()
            scores = score_answers(self.mixed.model, prompts, self.batch_size)
            return Answers(scores.log_probabilities[0], scores.correct)

        if name not in self.cache:
            self.cache[name] = load_or_compute(self.folder / f"answers-{name}.safetensors", Answers, key, compute)
        return self.cache[name]


def _repaired(work: _Work, config: RepairConfig, tolerance: float, *, choose_others: bool) -> Repair:
    """The search on the validation prompts, then the report on the test prompts."""
    n_layers = work.mixed.model.cfg.n_layers
    squared = work.mixed.squared_changes()
    base, tuned = (Fractions.uniform(n_layers, fraction) for fraction in (0.0, 1.0))
    if choose_others:
        _keep_abilities(work, base)
    with tqdm(desc="trying", unit="trial", leave=False, disable=None) as bar:
        search = Search(work.answers, n_layers, tolerance, bar.update)
        best = search.run(config.plan)
    log.info("chosen: %s, %s", best.step, best.what)
    found = best.fractions != tuned
    given = {BASE: base, TUNED: tuned, REPAIRED: best.fractions}
    if found:
        for seed in config.random_seeds:
            given[f"random bands {seed}"] = random_bands(n_layers, squared, undone(best.fractions, squared), seed)
    roles = [role for role in (KEEP, OTHER, LEARNED) if work.prompts[role]["test"]]
    rows = {name: [work.answers(fractions, role, "test") for role in roles] for name, fractions in given.items()}
    for seed in config.random_seeds if found else ():
        rows[f"random change {seed}"] = [work.random_change(best.fractions, seed, role) for role in roles]
    return Repair(
        torch.tensor(best.fractions.attention, dtype=torch.float64),
        torch.tensor(best.fractions.mlp, dtype=torch.float64),
        best.fractions.rest,
        torch.stack([torch.cat([each.correct for each in row]) for row in rows.values()]),
        torch.stack([torch.cat([each.log_probability for each in row]) for row in rows.values()]),
        models=tuple(rows),
        tasks=tuple(task for role in roles for task, _ in work.prompts[role]["test"]),
        roles=tuple(role for role in roles for _ in work.prompts[role]["test"]),
        trials=tuple(_trial_row(trial, best, undone(trial.fractions, squared)) for trial in search.trials),
        step=best.step if found else "",
        tolerance=tolerance,
        undone=undone(best.fractions, squared),
        provenance=_provenance(work, config),
    )


def _keep_abilities(work: _Work, base: Fractions) -> None:
    """Keep of the other tasks a few that the base can do, judged on validation prompts."""
    others = work.prompts[OTHER]
    correct = work.answers(base, OTHER).correct.tolist()
    by_task: dict[str, list[bool]] = {}
    for (task, _), each in zip(others["validation"], correct, strict=True):
        by_task.setdefault(task, []).append(each)
    able = [task for task, each in by_task.items() if sum(each) >= ABILITY * len(each)][:OTHERS]
    work.prompts[OTHER] = {split: [pair for pair in pairs if pair[0] in able] for split, pairs in others.items()}


def random_bands(n_layers: int, squared: dict[Any, float], share: float, seed: int) -> Fractions:
    """Layers' attention and MLPs put back whole, in a random order, until about ``share`` of the change is undone."""
    units = [(layer, kind) for layer in range(n_layers) for kind in KINDS]
    Random(seed).shuffle(units)
    fractions = Fractions.uniform(n_layers, 1.0)
    for layer, kind in units:
        more = fractions.changed(0.0, [layer], [kind])
        if undone(more, squared) > share:
            break
        fractions = more
    return fractions


def _trial_row(trial: Trial, best: Trial, share: float) -> dict[str, Any]:
    return {
        "step": trial.step, "what": trial.what, "undone": share, "learned": trial.learned, "allowed": trial.allowed,
        "kept": trial.kept, "probability": trial.probability, "chosen": trial is best,
    }  # fmt: skip


def _provenance(work: _Work, config: RepairConfig) -> dict[str, Any]:
    """The tuned model's facts, and among the settings the base's."""
    settings = {**vars(config), "format": str(config.format), "base": work.facts[BASE]}
    return {"model": work.facts[TUNED], "settings": settings, "versions": package_versions()}
