"""A task: examples, instructions, and the prompts made from them."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from types import MappingProxyType
from typing import Any

from ..checks import Count, Natural, Seed, checked
from ..errors import ArgumentError, TaskError, brief
from ..files import short_hash
from ..vocabulary import SPLITS, Corruption, Split
from .asking import AnyFormat, find_format, with_chat
from .builtin import read_builtin, word_tasks
from .chat import ChatText
from .composing import is_instructed, own_instruction, turns_of
from .corruptions import with_shuffled_labels, without_instruction
from .cutting import CutSide, shortened
from .examples import Example, as_examples, as_text, as_texts
from .formats import Format, write
from .judging import OptionScoring, Scoring
from .prompt import Prompt
from .turns import NEUTRAL, Turns, shown_options, unshown, written_answers, written_options

FEW_LABELS = 10  # different answers up to which a task is one of choosing a label


@dataclass(frozen=True)
class Task:
    """Examples of one task, instructions that paraphrase each other, and labels that name input and output in prompts.

    ``examples`` may be given as pairs of an input and its answers. ``cloze`` asks for the same knowledge without an
    instruction: a text with one ``{input}``. ``source`` says where the examples come from. ``scoring`` says how answers
    are judged; None: by likelihood where examples have options, else by greedy decoding. ``demonstrations`` are further
    examples that stand before queries, beside those of "train", and are never queries.

    Raises:
        TaskError: a field is missing, blank or of the wrong type, or an input is repeated with the same instruction,
            history and options.

    Example:
        >>> iv.Task("opposites", [("hot", "cold"), ("big", "small")], ("Say the opposite.",)).labels
        ('Input', 'Output')
    """

    name: str
    examples: tuple[Example, ...] = field(repr=False)
    instructions: tuple[str, ...] = ()
    labels: tuple[str, str] = NEUTRAL
    cloze: str | None = None
    kind: str = ""
    source: str = ""
    scoring: Scoring | None = None
    demonstrations: tuple[Example, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        name = as_text("the name of a task", self.name)
        checked: dict[str, Any] = {
            "name": name,
            "examples": as_examples(f"the examples of task {name!r}", self.examples),
            "instructions": as_texts(f"the instructions of task {name!r}", self.instructions),
            "labels": as_texts(f"the labels of task {name!r}", self.labels),
        }
        if self.demonstrations:
            checked["demonstrations"] = as_examples(f"the demonstrations of task {name!r}", self.demonstrations)
        for key, value in checked.items():
            object.__setattr__(self, key, value)
        if len(self.labels) != 2:
            raise TaskError(f"the labels of task {name!r} to be two different names", repr(self.labels))
        if self.cloze is not None and as_text(f"the cloze of task {name!r}", self.cloze).count("{input}") != 1:
            raise TaskError(f"the cloze of task {name!r} to hold {{input}} once", repr(self.cloze))
        if isinstance(self.scoring, OptionScoring):
            bare = next((example for example in self.examples if not example.options), None)
            if bare is not None:
                raise TaskError(f"options in every example of task {name!r}", f"none in {brief(bare.input)}")
        if len({example.split is None for example in self.examples}) > 1:
            raise TaskError(f"a split in every example of task {name!r}, or in none", "a split in some of them")
        for key, text in (("kind", self.kind), ("source", self.source)):
            if not isinstance(text, str):
                raise TaskError(f"the {key} of task {name!r} to be a text", brief(text))

    @property
    def digest(self) -> str:
        """Hash of everything that prompts are made of: examples, instructions, labels, cloze."""
        asks = (self.name, self.instructions, self.labels, self.cloze)
        examples = [_asked(example) for example in self.examples]
        more: list[Any] = [] if self.scoring is None else [repr(self.scoring)]
        if self.demonstrations:
            more.append([_asked(example) for example in self.demonstrations])
        return short_hash((asks, examples, *more))

    @checked
    def split(self, split: Split, seed: Seed = 0) -> tuple[Example, ...]:
        """The examples of a split: the data set's own where it comes in splits, else drawn at random.

        Args:
            split: "train" (50%), "validation" (20%), "test" (30%) or "all". Of a data set with its own splits but no
                validation examples, these are a fifth of its training examples.
            seed: seed of the split.

        Returns:
            The examples; splits are disjoint for one seed.

        Raises:
            ArgumentError: another name.

        Example:
            >>> len(task.split("train")), len(task.split("test"))
            (6, 4)
        """
        if split == "all":
            return self.examples
        if self.examples[0].split is not None:
            return self._own_split(split, seed)
        shuffled = list(self.examples)
        Random(f"{self.name}:{seed}").shuffle(shuffled)
        half, rest = len(shuffled) // 2, len(shuffled) * 7 // 10
        bounds = {"train": (0, half), "validation": (half, rest), "test": (rest, len(shuffled))}
        return tuple(shuffled[slice(*bounds[split])])

    def _own_split(self, split: Split, seed: int) -> tuple[Example, ...]:
        """The examples of a split of the data set's own."""
        own = {each: [example for example in self.examples if example.split == each] for each in SPLITS}
        if not own["validation"]:
            Random(f"{self.name}:{seed}").shuffle(own["train"])
            n_validation = len(own["train"]) // 5
            own["validation"], own["train"] = own["train"][:n_validation], own["train"][n_validation:]
        return tuple(own[split])

    @checked
    def prompts(
        self,
        n: Count | None = None,
        *,
        shots: Natural = 2,
        instruction: bool | int | str | None = None,
        format: AnyFormat = "labelled",
        corruption: Corruption | None = None,
        seed: Seed = 0,
        split: Split = "all",
        other: "Task | None" = None,
        tokenizer: Any = None,
        system: str | None = None,
        assistant_prefix: str = "",
        template_options: Mapping[str, Any] = MappingProxyType({}),
        max_tokens: Count | None = None,
        cut: CutSide = "left",
    ) -> list[Prompt]:
        """Prompts for queries of a split, each after demonstrations.

        Args:
            n: number of queries (None: all of the split).
            shots: demonstrations before each query, out of "train".
            instruction: True for the first, a number for that paraphrase, a text of your own, or False for none; None:
                True where the task has instructions, else False. An example's own instruction stands in place of the
                task's, but not of your text. The labels belong to the instruction: without it they are Input and
                Output.
            format: how prompts are written: "labelled", "plain", "qa" or "chat", the model's chat template. A ``Chat``
                has its settings; a callable from Turns to text writes prompts in a way of your own, after which answers
                follow a space unless the text ends in whitespace.
            corruption: None, "no-instruction", "other-instruction" or "shuffled-labels"; the answers stay those of
                this task.
            seed: seed of queries and demonstrations, which are the same for all other options, so that clean and
                corrupted prompts pair up; the splits do not depend on it.
            split: examples that queries are drawn from.
            other: the task for "other-instruction"; None: a built-in one of another kind without shared answers, drawn
                by the seed.
            tokenizer: for "chat" and for max_tokens.
            system: a system message for "chat"; it stays in corrupted prompts, so it should not reveal the task.
            assistant_prefix: the beginning of the answer, for "chat".
            template_options: options of the chat template, for "chat", as ``{"enable_thinking": False}``.
            max_tokens: tokens of a prompt, at most; longer ones are cut in their inputs, and only there, with a
                warning that counts them (None: nothing is cut).
            cut: the side from which inputs are cut: "left" keeps their end, "right" their beginning, "middle" both.

        Returns:
            The prompts, one per query.

        Raises:
            ArgumentError: an option outside its values
            PromptError: the chat template refuses the turns, or writes one of them or an answer otherwise; a format
                leaves out options that are to be shown; or a prompt is longer than max_tokens without its inputs.

        Example:
            >>> print(task.prompts(1, shots=0)[0].text.splitlines()[0])
            the quick fox jumps
        """
        render = find_format(with_chat(format, system, assistant_prefix, template_options), tokenizer)
        if corruption == "shuffled-labels" and shots < 2:
            raise ArgumentError(
                "shots to be a whole number of 2 or more", str(shots), "a single label cannot be shuffled"
            )
        queries = self._queries(n, split, seed)
        instruction = self._or_default(instruction)
        if corruption == "other-instruction":
            task = self._other(other, seed)
            foreign = [replace(query, instruction=own_instruction(task)) for query in queries]
            all_turns = turns_of(task, foreign, shots, instruction is not False, seed, self.scoring)
        else:
            asked = instruction if corruption is None else False
            all_turns = turns_of(self, queries, shots, asked, seed, self.scoring)
        changed: list[float | None] = [None] * len(queries)
        if corruption == "no-instruction":
            all_turns = [without_instruction(turns) for turns in all_turns]
        elif corruption == "shuffled-labels":
            pairs = [with_shuffled_labels(turns) for turns in all_turns]
            all_turns, changed = [turns for turns, _ in pairs], [wrong for _, wrong in pairs]
        if max_tokens is not None:
            all_turns = self._cut(queries, all_turns, render, tokenizer, max_tokens, cut)
        rows = zip(queries, all_turns, changed, strict=True)
        return [self._prompt(query, write(render, turns), wrong, self.scoring) for query, turns, wrong in rows]

    @checked
    def cloze_prompts(self, n: Count | None = None, *, seed: Seed = 0, split: Split = "all") -> list[Prompt]:
        """The queries of ``prompts``, asked by the cloze, without instruction or demonstrations.

        Args:
            n: number of queries (None: all of the split).
            seed: seed of the queries.
            split: examples that queries are drawn from.

        Returns:
            Prompts without instruction and demonstrations.

        Raises:
            TaskError: the task has no cloze
            ArgumentError: an option outside its values.

        Example:
            >>> iv.load_task("country-capital").cloze_prompts(1)[0].text.startswith("The capital of")
            True
        """
        if self.cloze is None:
            raise TaskError(f"a task with a cloze, a text with one {{input}}, for {self.name!r}", "none", "pass cloze=")
        queries = self._queries(n, split, seed)
        scoring = unshown(self.scoring)
        return [self._prompt(each, self.cloze.replace("{input}", each.input), scoring=scoring) for each in queries]

    def _or_default(self, instruction: bool | int | str | None) -> bool | int | str:
        """The instruction that is asked for, or where that is None the first, if the task has any."""
        return is_instructed(self) if instruction is None else instruction

    def _prompt(
        self, query: Example, text: str, changed: float | None = None, scoring: Scoring | None = None
    ) -> Prompt:
        """A query's prompt, judged by ``scoring`` where it has options to be judged by."""
        special_tokens, space = True, "" if text[-1:].isspace() else " "
        if isinstance(text, ChatText):
            special_tokens, space = False, text.space
        if isinstance(scoring, OptionScoring) and not query.options:  # a query of another task
            scoring = None
        shown = shown_options(scoring)
        answers = tuple(space + answer for answer in written_answers(query, shown))
        options = tuple(space + option for option in written_options(query, shown))
        if isinstance(text, ChatText):
            for answer in {*written_answers(query, shown), *written_options(query, shown)}:
                text.check(answer)
        parts = getattr(text, "parts", ())
        return Prompt(str(text), answers, special_tokens, self.name, query.input, changed, parts, options, scoring)

    def _cut(
        self,
        queries: Sequence[Example],
        all_turns: Sequence[Turns],
        render: Format,
        tokenizer: Any,
        max_tokens: int,
        cut: CutSide,
    ) -> list[Turns]:
        """The turns, those of longer prompts with inputs cut."""
        if tokenizer is None:
            raise ArgumentError("tokenizer= with max_tokens=", "none", "pass tokenizer=model.tokenizer")

        def length(turns: Turns) -> int:
            return len(self._prompt(queries[0], write(render, turns)).token_ids(tokenizer))

        fitting = [shortened(turns, length, max_tokens, cut) for turns in all_turns]
        count = sum(one is not other for one, other in zip(all_turns, fitting, strict=True))
        if count:
            message = f"{count:,} of {len(queries):,} prompts of {self.name!r} were cut to {max_tokens} tokens"
            warnings.warn(f"{message} (cut={cut!r})", stacklevel=4)
        return fitting

    def _queries(self, n: int | None, split: Split, seed: int) -> list[Example]:
        queries = list(self.split(split))
        check_available(self, split, {} if n is None else {"n": n})
        Random(f"{self.name}:{seed}:queries").shuffle(queries)
        return queries[:n]

    def _other(self, other: "Task | None", seed: int) -> "Task":
        """The task of a corrupted prompt's instruction: ``other``, or the built-in one that differs most from this."""
        if other is not None:
            if other.name == self.name:
                raise ArgumentError("other to be another task", f"{other.name!r} itself")
            return other
        own = _answers(self)
        tasks = [Task(**read_builtin(name), source="ivlens") for name in word_tasks() if name != self.name]
        tasks = [task for task in tasks if task.kind != self.kind]
        shared = [len(own & _answers(task)) for task in tasks]
        return Random(f"{self.name}:{seed}:other").choice(
            [task for task, count in zip(tasks, shared, strict=True) if count == min(shared)]
        )


def check_available(task: Task, split: Split, counts: Mapping[str, int]) -> None:
    """Raise ArgumentError, by the argument's name, for a count of prompts that a split of the task has not."""
    size = len(task.split(split))
    for name, n in counts.items():
        if n > size:
            raise ArgumentError(f"{name} to be at most {size}, the size of {split!r} in {task.name!r}", str(n))


def clean_instruction(task: Task, instruction: bool | int | str | None, shots: int) -> bool | int | str:
    """The instruction of clean prompts, the first of the task by default.

    Raises:
        ArgumentError: neither instruction nor demonstrations, so that clean prompts would not show the task.
    """
    instruction = task._or_default(instruction)
    if instruction is False and not shots:
        raise ArgumentError(
            f"clean prompts that show the task {task.name!r}", "no instruction, and 0 demonstrations",
            "pass shots=, or instruction= with a text",
        )  # fmt: skip
    return instruction


def prompts_for(
    task: Task,
    inputs: Sequence[str],
    *,
    shots: int,
    instruction: bool | int | str | None = None,
    format: AnyFormat = "labelled",
    seed: int = 0,
    tokenizer: Any = None,
) -> list[Prompt]:
    """A task's prompts for inputs that need not be among its examples; see ``Task.prompts`` for the options.

    The answers are those of the task's examples; an input that is none of theirs has itself as its answer.
    """
    known = {example.input: example for example in reversed(task.examples)}
    queries = [known.get(each) or Example(each, (each,), instruction=own_instruction(task)) for each in inputs]
    render = find_format(format, tokenizer)
    all_turns = turns_of(task, queries, shots, task._or_default(instruction), seed, task.scoring)
    pairs = zip(queries, all_turns, strict=True)
    return [task._prompt(query, write(render, turns), scoring=task.scoring) for query, turns in pairs]


def option_count(task: Task) -> int | None:
    """How many answers a guess has to choose from; None where it has no choice.

    That is the number of options (of several numbers their harmonic mean, rounded, which has the same mean chance),
    else the number of items that an input lists, or of a task's few labels.
    """
    sizes = [len(example.options) for example in task.examples]
    if all(sizes):
        return round(len(sizes) / sum(1 / size for size in sizes))
    listed = [[item.strip() for item in example.input.split(",")] for example in task.examples]
    if all(example.answers[0] in items for example, items in zip(task.examples, listed, strict=True)):
        counts = {len(items) for items in listed}
        return counts.pop() if len(counts) == 1 and min(counts) > 1 else None
    labels = {example.answers[0] for example in task.examples}
    return len(labels) if 2 <= len(labels) <= min(FEW_LABELS, len(task.examples) // 4) else None


def _asked(example: Example) -> tuple[Any, ...]:
    """What a prompt may be made of."""
    more = (example.options, example.instruction, example.history)
    own_split = () if example.split is None else (example.split,)
    return (example.input, example.answers, *(more if any(more) else ()), *own_split)


def _answers(task: Task) -> set[str]:
    return {answer.casefold() for example in task.examples for answer in example.answers}
