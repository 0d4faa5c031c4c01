"""``explore``: heads to look at, choose and try by click in a notebook or from Python; checkpoints compared, too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from .activations import attention_patterns, mean_head_activations
from .checks import Count, Natural, Seed, checked
from .effects import indirect_effects
from .errors import ArgumentError
from .models import Model, answer_logits, check_fits, padded
from .progress import no_bars
from .records import CheckpointComparison, Evaluation, HeadEffects, HeadMeans, heads_by_effect
from .scoring import evaluate, prompt_ids
from .steering import steer
from .tasks import AnyFormat, Prompt, Task, as_tasks, clean_instruction, format_of, task_names, token_text
from .vectors import InstructionVector, instruction_vector, logit_lens
from .vocabulary import Head, Metric, TokenizedPrompt, check_layer

if TYPE_CHECKING:
    import ivlens.views

AT_ONCE = 2  # corrupted prompts between two checks of the Stop button
DRAWS = {"shots": 2, "format": "labelled", "split": "train", "seed": 0, "corruption": "no-instruction"}


@dataclass(frozen=True)
class TaskPrompts:
    """The prompts of one task: training prompts, clean and corrupted, and test prompts to try, bare and clean."""

    clean: list[Prompt]
    corrupted: list[Prompt]
    test_bare: list[Prompt]
    test_clean: list[Prompt]


@dataclass(frozen=True)
class Explorer:
    """A model's heads on some tasks: computed on request, with slow results cached.

    It caches ``effects`` by task and metric, ``means`` and the ``answers`` to bare and clean test prompts by task, and
    the likeliest tokens after prompts without a vector (``unsteered``).
    """

    model: Model
    prompts: dict[str, TaskPrompts]
    effects: dict[tuple[str, str], HeadEffects] = field(default_factory=dict)
    means: dict[str, HeadMeans] = field(default_factory=dict)
    answers: dict[str, tuple[Evaluation, Evaluation]] = field(default_factory=dict)
    unsteered: dict[tuple[Prompt, int], pd.DataFrame] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Layers, and heads in each."""
        return self.model.cfg.n_layers, self.model.cfg.n_heads

    def compute(self, task: str, metric: Metric) -> Iterator[tuple[int, int]]:
        """Compute a task's effects, a few prompts at a time; yield the number of prompts done and the total.

        If the caller stops early, the effects over the prompts so far are kept.
        """
        key, prompts = (task, metric), self.prompts[task].corrupted
        done = self.effects[key].n if key in self.effects else 0
        yield done, len(prompts)
        self._test_answers(task)
        while done < len(prompts):
            batch = prompts[done : done + AT_ONCE]
            with no_bars():
                more = indirect_effects(self.model, batch, self._means(task), metric=metric)
            self.effects[key] = _joined(self.effects[key], more) if done else more
            done = self.effects[key].n
            yield done, len(prompts)

    def ranks(self, head: tuple[int, int], metric: Metric) -> pd.DataFrame:
        """The head's effect and rank (from 1) on every task that has effects; columns task, effect, rank, n."""
        rows = [
            (task, effects.aie[head].item(), heads_by_effect(effects.aie).index(Head(*head)) + 1, effects.n)
            for (task, known), effects in self.effects.items()
            if known == metric
        ]
        return pd.DataFrame(rows, columns=["task", "effect", "rank", "n"])

    def vector(self, task: str, heads: Sequence[tuple[int, int]]) -> InstructionVector:
        """The instruction vector of ``heads`` on the task."""
        return instruction_vector(self.model, self._means(task), [Head(*head) for head in heads])

    def logit_lens(self, task: str, head: tuple[int, int], k: int = 8) -> pd.DataFrame:
        """The ``k`` tokens that the head's mean output on the task points to; columns token, value (in logits)."""
        return logit_lens(self.model, self.vector(task, [head]), k)[["token", "value"]]

    def attention(
        self, task: str, head: tuple[int, int], prompt: int
    ) -> tuple[list[str], Float[Tensor, "1 query key"]]:
        """The tokens of the task's clean prompt of this index, and the head's attention pattern on it."""
        return attention_patterns(self.model, self.prompts[task].clean[prompt], [Head(*head)])

    @no_bars()
    def accuracy(self, task: str, vector: InstructionVector | None, layer: int, scale: float) -> pd.DataFrame:
        """Accuracy on the test prompts: columns condition, accuracy, low, high (95% interval), probability, n."""
        bare, clean = self._test_answers(task)
        scores = {"bare": bare, "clean": clean}
        if vector is not None:
            with steer(self.model, vector, layer, scale):
                scores = {"bare": bare, "steered": evaluate(self.model, self.prompts[task].test_bare), "clean": clean}
        return pd.DataFrame([
            {"condition": name, "accuracy": each.accuracy, "low": low, "high": high,
             "probability": each.probability, "n": each.n}
            for name, each in scores.items() for low, high in [each.accuracy_interval()]
        ])  # fmt: skip

    def tokens(
        self, bare: Prompt, clean: Prompt, vector: InstructionVector | None, layer: int, scale: float, k: int = 5
    ) -> pd.DataFrame:
        """The ``k`` likeliest next tokens after the bare prompt, the same steered, and the clean one.

        Columns: rank, token, probability, condition.
        """
        for prompt in (bare, clean):
            if (prompt, k) not in self.unsteered:
                self.unsteered[prompt, k] = self._likeliest(prompt, k)
        tokens = {"bare": self.unsteered[bare, k], "clean": self.unsteered[clean, k]}
        if vector is not None:
            with steer(self.model, vector, layer, scale):
                tokens = {"bare": tokens["bare"], "steered": self._likeliest(bare, k), "clean": tokens["clean"]}
        return pd.concat([frame.assign(condition=name) for name, frame in tokens.items()], ignore_index=True)

    @no_bars()
    def _means(self, task: str) -> HeadMeans:
        if task not in self.means:
            self.means[task] = mean_head_activations(self.model, self.prompts[task].clean)
        return self.means[task]

    @no_bars()
    def _test_answers(self, task: str) -> tuple[Evaluation, Evaluation]:
        """The answers to bare and clean test prompts without a vector."""
        if task not in self.answers:
            prompts = self.prompts[task]
            self.answers[task] = evaluate(self.model, prompts.test_bare), evaluate(self.model, prompts.test_clean)
        return self.answers[task]

    @torch.no_grad()
    def _likeliest(self, prompt: Prompt, k: int) -> pd.DataFrame:
        (ids,) = prompt_ids(self.model, [prompt])
        # only the last token's logits are used, so any one-token answer will do
        (logits,) = answer_logits(self.model, padded([TokenizedPrompt(ids, (0,))], self.model.cfg.device))
        best = logits[0].double().softmax(-1).topk(min(k, logits.shape[-1]))
        tokens = [token_text(self.model.tokenizer, token) for token in best.indices.tolist()]
        return pd.DataFrame({"rank": range(1, len(tokens) + 1), "token": tokens, "probability": best.values.tolist()})


@checked
def explore(
    model: Model | CheckpointComparison,
    tasks_or_prompts: Task | str | Prompt | Sequence[Task | str | Prompt] | None = None,
    *,
    corrupted: Sequence[Prompt] = (),
    effects: HeadEffects | Sequence[HeadEffects] = (),
    n_clean: Count = 20,
    n_test: Count = 12,
    shots: Natural = 2,
    format: AnyFormat = "labelled",
    layer: int | None = None,
    scale: float = 4.0,
    k: Natural = 20,
    seed: Seed = 0,
) -> "ivlens.views.ExplorerWidget | ivlens.views.CheckpointExplorer":
    """A widget for notebooks: the map of heads' effects, what a clicked head does, and the chosen heads' vector tried.

    Of a comparison of checkpoints, the map of its tasks by checkpoints, and all that it holds of a clicked pair.

    Args:
        model: the model to explore; or the record of ``compare_checkpoints``, which needs nothing else.
        tasks_or_prompts: tasks or their names, or clean prompts made by hand.
        corrupted: for prompts made by hand, the same queries without instruction; the vector is tried on them.
        effects: effects computed before by ``locate_heads``; their prompts are used.
        n_clean: training prompts per task, for means and effects.
        n_test: test prompts per task, on which the vector is tried.
        shots: demonstrations in each clean prompt.
        format: how prompts are written: "labelled", "plain", "qa", "chat" or a ``Chat``, or a callable of your own.
        layer: initial layer of the slider, to whose input the vector is added; None: two fifths of the depth.
        scale: initial scale of the slider.
        k: how many of the strongest heads are chosen at first, as soon as all effects are computed; 0: none.
        seed: seed of the prompts.

    Returns:
        The widget, which a notebook shows; its ``heads``, ``layer``, ``scale`` and ``state`` can be assigned,
        ``vector`` is the instruction vector of the heads, ``export`` saves what was found.

    Raises:
        ArgumentError: no tasks, prompts that do not pair up, or an option outside its values.
        MismatchError: effects of another model.
        TaskError, PromptError: see ``load_task`` and ``Task.prompts``.

    Example:
        >>> widget = iv.explore(model, task, n_clean=2, n_test=2)
        >>> widget.heads = [(0, 1)]
        >>> widget.vector.heads
        ((0, 1),)
    """
    if isinstance(model, CheckpointComparison):
        return _of_comparison(model, tasks_or_prompts)
    if tasks_or_prompts is None:
        raise ArgumentError("tasks or prompts beside a model", "none", "pass load_task(source), or a name")
    n_layers = model.cfg.n_layers
    layer = n_layers * 2 // 5 if layer is None else layer
    check_layer(n_layers, layer)
    several = [tasks_or_prompts] if isinstance(tasks_or_prompts, (Task, str, Prompt)) else list(tasks_or_prompts)
    known = [effects] if isinstance(effects, HeadEffects) else list(effects)
    for each in known:
        check_fits(model, each.provenance, f"the effects on {each.task or 'prompts'}", same_weights=True)
    if several and all(isinstance(each, Prompt) for each in several):
        prompts = _made_by_hand(several, list(corrupted))
    elif corrupted:
        raise ArgumentError("corrupted= beside clean prompts made by hand", "it beside tasks", "leave it out")
    else:
        draws = DRAWS | {"shots": shots, "seed": seed, "format": format}
        prompts = {task.name: _drawn(model, task, known, n_clean, n_test, draws) for task in _tasks(several)}
    from .views import ExplorerWidget

    return ExplorerWidget(_with_effects(Explorer(model, prompts), known), layer=layer, scale=scale, k=k)


def _of_comparison(comparison: CheckpointComparison, tasks: object) -> "ivlens.views.CheckpointExplorer":
    """The widget of a comparison, which has its own tasks."""
    if tasks is not None:
        raise ArgumentError("a comparison alone", "tasks beside it", "leave them out: it has its own")
    from .views import CheckpointExplorer

    return CheckpointExplorer(comparison)


def _made_by_hand(clean: list[Any], corrupted: list[Prompt]) -> dict[str, TaskPrompts]:
    """Paired clean and corrupted prompts, as one task's."""
    if len(corrupted) != len(clean):
        do = "pass corrupted=, for each prompt the same without what asks for its task"
        raise ArgumentError(f"as many corrupted prompts as clean ones, {len(clean)}", str(len(corrupted)), do)
    name = ", ".join(task_names(clean)) or "prompts"
    return {name: TaskPrompts(clean, corrupted, test_bare=corrupted, test_clean=clean)}


def _tasks(tasks_or_names: list[Any]) -> list[Task]:
    if any(isinstance(each, Prompt) for each in tasks_or_names):
        raise ArgumentError("every task to be a Task or a name", "a Prompt", "pass prompts alone, or tasks alone")
    tasks = as_tasks(tasks_or_names)
    if not tasks or len({task.name for task in tasks}) < len(tasks):
        raise ArgumentError("tasks of different names, one or more", f"{[task.name for task in tasks]}")
    return tasks


def _drawn(model: Model, task: Task, known: list[Any], n_clean: int, n_test: int, draws: dict[str, Any]) -> TaskPrompts:
    """A task's prompts, drawn with ``draws`` or as those of known effects were."""
    count = min(n_clean, len(task.split("train")))
    if known := [each for each in known if each.task == task.name]:
        draws, count = _common_draws(task, known), known[0].n
    instruction = clean_instruction(task, draws.get("instruction"), draws["shots"])
    how = {"format": draws["format"], "seed": draws["seed"], "tokenizer": model.tokenizer, "instruction": instruction}
    draw = partial(task.prompts, count, shots=draws["shots"], split=draws["split"], **how)
    draw_test = partial(task.prompts, min(n_test, len(task.split("test"))), split="test", **how)
    bare, clean = draw_test(shots=0, instruction=False), draw_test(shots=draws["shots"])
    return TaskPrompts(draw(), draw(corruption=draws["corruption"]), test_bare=bare, test_clean=clean)


def _common_draws(task: Task, known: list[HeadEffects]) -> dict[str, Any]:
    """How the prompts of all known effects on a task were drawn."""
    settings = [each.provenance.get("settings", {}) for each in known]
    draws = [
        {name: each.get(name) for name in (*DRAWS, "instruction")} | {"format": format_of(each)} for each in settings
    ]
    if None in [draws[0][name] for name in DRAWS] or any(each != draws[0] for each in draws):
        expected = f"effects on {task.name!r} that say how their prompts were drawn, all of them alike"
        raise ArgumentError(expected, f"{settings}"[:200], "locate_heads computes such")
    return draws[0]


def _with_effects(explorer: Explorer, known: Sequence[HeadEffects]) -> Explorer:
    """The explorer with known effects and the means that they were computed with."""
    for each in known:
        name = each.task or "prompts"
        if name not in explorer.prompts:
            raise ArgumentError(f"effects on {', '.join(explorer.prompts)}", f"some on {name!r}")
        count = len(explorer.prompts[name].corrupted)
        if each.n != count:
            raise ArgumentError(f"effects on {count} corrupted prompts", f"on {each.n}")
        explorer.effects[name, each.metric] = each
        if each.means is not None:
            explorer.means.setdefault(name, each.means)
    return explorer


def _joined(effects: HeadEffects, more: HeadEffects) -> HeadEffects:
    """Effects on two sets of prompts, as one record."""
    values = torch.cat([effects.values, more.values])
    settings = dict(effects.provenance["settings"]) | {"prompts": len(values)}
    baseline, origin = torch.cat([effects.baseline, more.baseline]), dict(effects.provenance)
    return replace(effects, values=values, baseline=baseline, provenance=origin | {"settings": settings})
