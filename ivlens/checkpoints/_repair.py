"""``repair``: as much as possible of what was forgotten, at almost nothing of what was learned, without training."""

import logging
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from ..checks import Count, Fraction, Natural, Seed, checked
from ..errors import ArgumentError, PromptError, few
from ..files import held
from ..models import Model
from ..progress import ProgressBar
from ..records import Answers, Repair
from ..records.abilities import ABILITY
from ..records.repair import BASE, KEEP, LEARNED, OTHER, REPAIRED, TUNED
from ..scoring import by_likelihood, candidates_of, check_answers, mean_chance
from ..stats import wilson_interval
from ..tasks import AnyFormat, Prompt, Task, as_tasks, word_tasks
from ..vocabulary import Split
from .answers import KeptAnswers, clean_prompts, kept_answers
from .mixing import Fractions, undone
from .search import KINDS, Plan, Search, Trial
from .sources import two_checkpoints

SPLITS: tuple[Split, ...] = ("validation", "test")
OTHERS = 6  # built-in tasks that a repair is reported on by default
log = logging.getLogger("ivlens")


@checked
@dataclass(frozen=True)
class RepairConfig:
    """What a repair tries, and on how many prompts it chooses and reports.

    Args:
        fractions: of the change to keep, one everywhere at a time; 0 is the base, 1 the tuned model.
        depths: fractions to keep in the first and in the last layer, linear between (LiNeS, 2410.17146).
        n_bands: bands of layers that are put back on their own, and that the greedy search moves.
        n_greedy: trials of the greedy search, at most; 0 leaves it out.
        n_validation: validation prompts of each task to choose on, at most as many as the split has.
        n_test: test prompts of each task to report on, at most as many as the split has.
        shots: demonstrations in the prompts.
        learned_shots: those in the prompts of learned tasks, which should be asked as they were trained (None: shots).
        random_seeds: seeds of the random controls, two controls for each.
        seed: seed of the prompts.
        instruction: the words, or which of a task's instructions (None: the first), as in ``CheckpointConfig``.
        format: how prompts are written: "labelled", "plain", "qa" or "chat", the base's chat template. A ``Chat`` has
            its settings.
        batch_size: answers per forward pass.

    Raises:
        ArgumentError: naming the field that is outside its values.

    Example:
        >>> iv.RepairConfig(fractions=(0.5,), n_greedy=0).n_validation
        25
    """

    fractions: tuple[Fraction, ...] = (0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05)
    depths: tuple[tuple[Fraction, Fraction], ...] = ((0.2, 0.8), (0.0, 0.8), (0.0, 0.4))
    n_bands: Count = 3
    n_greedy: Natural = 16
    n_validation: Count = 25
    n_test: Count = 30
    shots: Natural = 2
    learned_shots: Natural | None = None
    random_seeds: tuple[Seed, ...] = (0, 1, 2)
    seed: Seed = 0
    instruction: bool | int | str | None = None
    format: AnyFormat = "labelled"
    batch_size: Count = 32

    @property
    def plan(self) -> Plan:
        """What the search tries."""
        return Plan(self.fractions, self.depths, self.n_bands, self.n_greedy)

    @checked
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
        at_most = self.n_test if split == "test" else self.n_validation
        return clean_prompts(self, task, split, at_most, tokenizer, learned=learned)


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
    on the learned tasks. Of what passes and keeps as much as the best, within one standard error of its accuracy on the
    tasks to keep, the mixture nearest the base is chosen: the one whose predictions on a plain text are nearest the
    base's (KL divergence). The base has all old abilities, also those that nobody asks for here. All this is judged on
    validation prompts; reported are test prompts, of the tasks to keep, of ``others`` that nothing was chosen on, and
    of the learned ones, beside random controls. ``repaired_model`` gives the model.

    One model is in memory at a time; files of its weights lie in a temporary folder meanwhile. A model object that is
    given as ``tuned`` is changed while this runs, and is what it was afterwards.

    Args:
        base: anything that ``load_model`` reads.
        tuned: a checkpoint of the base; see ``compare_checkpoints``.
        keep: old tasks to choose on, or names of built-in ones or files.
        learned: new tasks, which the guard holds.
        others: tasks to report on beside these (None: up to six built-in ones that the base can do and that fit its
            context; []: none).
        tolerance: accuracy that the learned tasks may lose, together, on the validation prompts.
        config: what is tried, on how many prompts (None: the defaults of ``RepairConfig``).
        out: folder for the answers, from which an interrupted repair resumes (None: a temporary one).
        options: options of ``load_model`` for both models: ``device``, ``dtype``, ``tokenizer``.

    Returns:
        What was chosen, and the answers of base, tuned, repaired and control models to the test prompts.

    Raises:
        ArgumentError: no tasks to keep or learned ones, a task given twice or without validation or test examples; LoRA
            on a model.
        PromptError: a prompt that cannot be tokenised or is longer than the model's context, or on which logits are
            not finite.
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
        raise ArgumentError(
            "tasks to keep and learned ones, none of them twice", ", ".join(names) or "none",
            "name each task once, in keep, learned or others",
        )  # fmt: skip
    if others is None:
        tasks[OTHER] = [task for task in as_tasks(word_tasks()) if task.name not in names]
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch if out is None else out).absolute()
        first, second = two_checkpoints(base, tuned, options, folder / "facts")
        stack.enter_context(held(scratch if out is None else out))
        tokenizer = first.tokenizer()
        prompts = {
            role: {split: _prompts(config, of_role, split, tokenizer, role == LEARNED) for split in SPLITS}
            for role, of_role in tasks.items()
        }  # fmt: skip
        every = [prompt for of_role in prompts.values() for pairs in of_role.values() for _, prompt in pairs]
        with kept_answers(first, second, every, folder, Path(scratch), config) as kept:
            return _repaired(_Work(kept, prompts), config, tolerance, choose_others=others is None)


def _prompts(
    config: RepairConfig, tasks: Sequence[Task], split: Split, tokenizer: Any, learned: bool
) -> list[tuple[str, Prompt]]:
    """The prompts of several tasks, each with its task's name."""
    return [(task.name, prompt) for task in tasks for prompt in config.prompts(task, split, tokenizer, learned=learned)]


@dataclass
class _Work:
    """The mixed model's answers, and the prompts by role and split."""

    kept: KeptAnswers
    prompts: dict[str, dict[Split, list[tuple[str, Prompt]]]]

    def answers(self, fractions: Fractions, role: str, split: Split = "validation") -> Answers:
        """Answers with these fractions of the change."""
        return self.kept.of(fractions, self._prompts(role, split))

    def random_change(self, like: Fractions, seed: int, role: str) -> Answers:
        """Test answers as far from the tuned weights as ``like`` is, in a random direction."""
        weights = ["random change", seed, list(like.attention), list(like.mlp), like.rest]
        change = partial(self.kept.mixed.undo_at_random, like, seed)
        return self.kept.after(change, weights, self._prompts(role, "test"))

    def _prompts(self, role: str, split: Split) -> list[Prompt]:
        return [prompt for _, prompt in self.prompts[role][split]]


def _repaired(work: _Work, config: RepairConfig, tolerance: float, *, choose_others: bool) -> Repair:
    """The search on the validation prompts, then the report on the test prompts."""
    n_layers = work.kept.mixed.model.cfg.n_layers
    squared = work.kept.mixed.squared_changes()
    base, tuned = (Fractions.uniform(n_layers, fraction) for fraction in (0.0, 1.0))
    if choose_others:
        _keep_abilities(work, base)
    with ProgressBar(total=config.plan.most, desc="trying", unit="trial", leave=False) as bar:
        n_keep = len(work.prompts[KEEP]["validation"])
        search = Search(work.answers, work.kept.divergence, n_keep, n_layers, squared, tolerance, bar.update)
        best = search.run(config.plan)
    log.info("chosen: %s, %s", best.step, best.what)
    found = best.fractions != tuned
    given = {BASE: base, TUNED: tuned, REPAIRED: best.fractions}
    if found:
        for seed in config.random_seeds:
            given[f"random bands {seed}"] = random_bands(n_layers, squared, best.undone, seed)
    roles = [role for role in (KEEP, OTHER, LEARNED) if work.prompts[role]["test"]]
    measures = {name: partial(work.answers, fractions, split="test") for name, fractions in given.items()}
    for seed in config.random_seeds if found else ():
        measures[f"random change {seed}"] = partial(work.random_change, best.fractions, seed)
    rows: dict[str, list[Answers]] = {}
    for name in ProgressBar(list(measures), "testing", unit="model", leave=False):
        rows[name] = [measures[name](role=role) for role in roles]
    return Repair(
        torch.tensor(best.fractions.attention, dtype=torch.float64),
        torch.tensor(best.fractions.mlp, dtype=torch.float64),
        best.fractions.rest,
        torch.stack([torch.cat([each.correct for each in row]) for row in rows.values()]),
        torch.stack([torch.cat([each.log_probability for each in row]) for row in rows.values()]),
        models=tuple(rows),
        tasks=tuple(task for role in roles for task, _ in work.prompts[role]["test"]),
        roles=tuple(role for role in roles for _ in work.prompts[role]["test"]),
        trials=tuple(_trial_row(trial, best) for trial in search.trials),
        step=best.step if found else "",
        tolerance=tolerance,
        undone=best.undone,
        provenance=work.kept.provenance(config),
    )


def _keep_abilities(work: _Work, base: Fractions) -> None:
    """Keep of the other tasks a few that the base can do, judged on validation prompts."""
    others, model = work.prompts[OTHER], work.kept.mixed.model
    unfit = {task for pairs in others.values() for task, prompt in pairs if not _fits(model, prompt)}
    others = {split: [pair for pair in pairs if pair[0] not in unfit] for split, pairs in others.items()}
    work.prompts[OTHER] = others
    if unfit:
        log.warning(f"not reported on, since the model cannot be asked: {few(sorted(unfit))}")
    by_task: dict[str, list[tuple[bool, Prompt]]] = {}
    if others["validation"]:
        correct = work.answers(base, OTHER).correct.tolist()
        for (task, prompt), each in zip(others["validation"], correct, strict=True):
            by_task.setdefault(task, []).append((each, prompt))
    able = [task for task, answers in by_task.items() if _can_do(answers)][:OTHERS]
    work.prompts[OTHER] = {split: [pair for pair in pairs if pair[0] in able] for split, pairs in others.items()}


def _can_do(answers: Sequence[tuple[bool, Prompt]]) -> bool:
    """Whether answers to prompts, correct or not, show an ability, and are not as guesses among options would be."""
    right, n = sum(correct for correct, _ in answers), len(answers)
    return right >= ABILITY * n and wilson_interval(right, n)[0] > mean_chance([prompt for _, prompt in answers])


def _fits(model: Model, prompt: Prompt) -> bool:
    """Whether the prompt with each of its answers can be tokenised and fits into the model's context."""
    try:
        check_answers(model, prompt)
        candidates_of(model, by_likelihood(prompt))
    except PromptError:
        return False
    return True


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


def _trial_row(trial: Trial, best: Trial) -> dict[str, Any]:
    row = trial._asdict()
    del row["fractions"]
    return row | {"chosen": trial is best}
