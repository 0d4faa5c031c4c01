"""A task: examples, instructions, and the prompts made from them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ..checks import Count, Natural, Seed, checked
from ..errors import ArgumentError, PromptError, TaskError, brief
from ..files import short_hash
from ..vocabulary import Corruption, FormatName, Split
from .builtin import list_tasks, read_builtin
from .corruptions import with_shuffled_labels, without_instruction
from .examples import Example, as_text, as_texts
from .formats import ChatText, Format, find_format
from .judging import Scoring
from .prompt import Prompt
from .turns import NEUTRAL, Turns

FEW_LABELS = 10  # different answers up to which a task is one of choosing a label


@dataclass(frozen=True)
class Task:
    """Examples of one task, instructions that paraphrase each other, and labels that name input and output in prompts.

    ``examples`` may be given as pairs of an input and its answers. ``cloze`` asks for the same knowledge without an
    instruction: a text with one ``{input}``. ``source`` says where the examples come from. ``scoring`` says how answers
    are judged; None: by likelihood where examples have options, else by greedy decoding.

    Raises:
        TaskError: a field is missing, blank or of the wrong type, or an input is repeated.

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

    def __post_init__(self) -> None:
        name = as_text("the name of a task", self.name)
        checked = {
            "name": name,
            "examples": _as_examples(f"the examples of task {name!r}", self.examples),
            "instructions": as_texts(f"the instructions of task {name!r}", self.instructions),
            "labels": as_texts(f"the labels of task {name!r}", self.labels),
        }
        for key, value in checked.items():
            object.__setattr__(self, key, value)
        if len(self.labels) != 2:
            raise TaskError(f"the labels of task {name!r} to be two different names", repr(self.labels))
        if self.cloze is not None and as_text(f"the cloze of task {name!r}", self.cloze).count("{input}") != 1:
            raise TaskError(f"the cloze of task {name!r} to hold {{input}} once", repr(self.cloze))
        for key, text in (("kind", self.kind), ("source", self.source)):
            if not isinstance(text, str):
                raise TaskError(f"the {key} of task {name!r} to be a text", brief(text))

    @property
    def digest(self) -> str:
        """Hash of everything that prompts are made of: examples, instructions, labels, cloze."""
        asks = (self.name, self.instructions, self.labels, self.cloze)
        examples = [_asked(example) for example in self.examples]
        return short_hash((asks, examples) if self.scoring is None else (asks, examples, repr(self.scoring)))

    @checked
    def split(self, split: Split, seed: Seed = 0) -> tuple[Example, ...]:
        """The examples of a split.

        Args:
            split: "train" (50%), "validation" (20%), "test" (30%) or "all".
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
        shuffled = list(self.examples)
        Random(f"{self.name}:{seed}").shuffle(shuffled)
        half, rest = len(shuffled) // 2, len(shuffled) * 7 // 10
        bounds = {"train": (0, half), "validation": (half, rest), "test": (rest, len(shuffled))}
        return tuple(shuffled[slice(*bounds[split])])

    @checked
    def prompts(
        self,
        n: Count | None = None,
        *,
        shots: Natural = 2,
        instruction: bool | int | str | None = None,
        format: FormatName | Format = "labelled",
        corruption: Corruption | None = None,
        seed: Seed = 0,
        split: Split = "all",
        other: "Task | None" = None,
        tokenizer: Any = None,
        system: str | None = None,
        assistant_prefix: str = "",
    ) -> list[Prompt]:
        """Prompts for queries of a split, each after demonstrations.

        Args:
            n: number of queries (None: all of the split).
            shots: demonstrations before each query, out of "train".
            instruction: True for the first, a number for that paraphrase, a text of your own, or False for none; None:
                True where the task has instructions, else False. The labels belong to the instruction: without it
                they are Input and Output.
            format: "labelled", "plain", "qa", "chat", or a callable from Turns to text, after which answers follow a
                space unless it ends in whitespace (``chat_format`` passes a chat template its own options).
            corruption: None, "no-instruction", "other-instruction" or "shuffled-labels"; the answers stay those of
                this task.
            seed: seed of queries and demonstrations, which are the same for all other options, so that clean and
                corrupted prompts pair up; the splits do not depend on it.
            split: examples that queries are drawn from.
            other: the task for "other-instruction"; None: a built-in one of another kind without shared answers, drawn
                by the seed.
            tokenizer: for "chat".
            system: a system message for "chat"; it stays in corrupted prompts, so it should not reveal the task.
            assistant_prefix: the beginning of the answer, for "chat".

        Returns:
            The prompts, one per query.

        Raises:
            ArgumentError: an option outside its values
            PromptError: the chat template refuses.

        Example:
            >>> print(task.prompts(1, shots=0)[0].text.splitlines()[0])
            the quick fox jumps
        """
        render = find_format(format, tokenizer, system, assistant_prefix)
        if corruption == "shuffled-labels" and shots < 2:
            raise ArgumentError(
                "shots to be a whole number of 2 or more", str(shots), "a single label cannot be shuffled"
            )
        queries = self._queries(n, split, seed)
        instruction = self._or_default(instruction)
        if corruption == "other-instruction":
            all_turns = self._other(other, seed)._turns(queries, shots, instruction is not False, seed)
        else:
            all_turns = self._turns(queries, shots, instruction if corruption is None else False, seed)
        prompts = []
        for query, turns in zip(queries, all_turns, strict=True):
            changed = None
            if corruption == "no-instruction":
                turns = without_instruction(turns)
            elif corruption == "shuffled-labels":
                turns, changed = with_shuffled_labels(turns)
            prompts.append(self._prompt(query, render(turns), changed))
        return prompts

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
        return [self._prompt(query, self.cloze.replace("{input}", query.input)) for query in queries]

    def _or_default(self, instruction: bool | int | str | None) -> bool | int | str:
        """The instruction that is asked for, or where that is None the first, if the task has any."""
        return bool(self.instructions) if instruction is None else instruction

    def _prompt(self, query: Example, text: str, changed: float | None = None) -> Prompt:
        if not isinstance(text, str):
            raise PromptError("a format that gives a text", brief(text))
        special_tokens, space = True, "" if text[-1:].isspace() else " "
        if isinstance(text, ChatText):
            special_tokens, space = False, text.space
        answers = tuple(space + answer for answer in query.answers)
        return Prompt(str(text), answers, special_tokens, self.name, query.input, changed, getattr(text, "parts", ()))

    def _queries(self, n: int | None, split: Split, seed: int) -> list[Example]:
        queries = list(self.split(split))
        check_available(self, split, {} if n is None else {"n": n})
        Random(f"{self.name}:{seed}:queries").shuffle(queries)
        return queries[:n]

    def _turns(self, queries: list[Example], shots: int, instruction: bool | int | str, seed: int) -> list[Turns]:
        text = self._instruction(instruction)
        labels = NEUTRAL if instruction is False else self.labels
        train = self.split("train")
        return [Turns(text, labels, self._demonstrations(train, query, shots, seed), query.input) for query in queries]

    def _demonstrations(self, train: tuple[Example, ...], query: Example, shots: int, seed: int) -> tuple[Example, ...]:
        """Some examples of ``train`` without the query, determined by seed and query alone."""
        drawn = Random(f"{self.name}:{seed}:{query.input}").sample(train, min(shots + 1, len(train)))
        kept = tuple(example for example in drawn if example.input != query.input)[:shots]
        if len(kept) < shots:
            raise ArgumentError(
                f"shots to be at most {len(kept)}, the examples in the training half of {self.name!r} beside the query",
                str(shots),
            )
        return kept

    def _instruction(self, instruction: bool | int | str) -> str | None:
        if instruction is False:
            return None
        if isinstance(instruction, str):
            if not instruction.strip():
                raise ArgumentError("instruction to be a text that is not blank", repr(instruction), "False is none")
            return instruction
        if not self.instructions:
            raise ArgumentError(
                f"a task with instructions, since instruction={instruction!r}",
                f"{self.name!r} without any",
                "pass instructions= to load_task, --instruction to a command, your own text as instruction=, or "
                "instruction=False",
            )
        if instruction is True:
            return self.instructions[0]
        if not 0 <= instruction < len(self.instructions):
            raise ArgumentError(f"instruction to be from 0 to {len(self.instructions) - 1}", repr(instruction))
        return self.instructions[instruction]

    def _other(self, other: "Task | None", seed: int) -> "Task":
        """The task of a corrupted prompt's instruction: ``other``, or the built-in one that differs most from this."""
        if other is not None:
            if other.name == self.name:
                raise ArgumentError("other to be another task", f"{other.name!r} itself")
            return other
        own = _answers(self)
        tasks = [Task(**read_builtin(name), source="ivlens") for name in list_tasks() if name != self.name]
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
    format: FormatName | Format = "labelled",
    seed: int = 0,
    tokenizer: Any = None,
) -> list[Prompt]:
    """A task's prompts for inputs that need not be among its examples; see ``Task.prompts`` for the options.

    The answers are those of the task's examples; an input that is none of theirs has itself as its answer.
    """
    known = {example.input: example for example in task.examples}
    queries = [known.get(each) or Example(each, (each,)) for each in inputs]
    render = find_format(format, tokenizer, None, "")
    all_turns = task._turns(queries, shots, task._or_default(instruction), seed)
    return [task._prompt(query, render(turns)) for query, turns in zip(queries, all_turns, strict=True)]


def option_count(task: Task) -> int | None:
    """How many answers a guess has to choose from: the items that an input lists, or a task's few labels; else None."""
    listed = [[item.strip() for item in example.input.split(",")] for example in task.examples]
    if all(example.answers[0] in items for example, items in zip(task.examples, listed, strict=True)):
        counts = {len(items) for items in listed}
        return counts.pop() if len(counts) == 1 and min(counts) > 1 else None
    labels = {example.answers[0] for example in task.examples}
    return len(labels) if 2 <= len(labels) <= min(FEW_LABELS, len(task.examples) // 4) else None


def _asked(example: Example) -> tuple[Any, ...]:
    """What a prompt may be made of."""
    more = (example.options, example.instruction, example.history)
    return (example.input, example.answers, *(more if any(more) else ()))


def _answers(task: Task) -> set[str]:
    return {answer.casefold() for example in task.examples for answer in example.answers}


def _as_examples(what: str, value: object) -> tuple[Example, ...]:
    """``value`` as examples with different inputs, or a TaskError that names ``what``."""
    if not isinstance(value, (list, tuple)) or not value:
        raise TaskError(f"{what} to be a list of one or more", brief(value))
    examples = tuple(_as_example(what, item) for item in value)
    repeated, times = Counter(example.input for example in examples).most_common(1)[0]
    if times > 1:
        raise TaskError(f"{what} to have different inputs", f"{brief(repeated)} {times} times", "merge their answers")
    return examples


def _as_example(what: str, item: object) -> Example:
    if isinstance(item, Example):
        return item
    if not isinstance(item, (list, tuple)) or len(item) != 2:
        raise TaskError(f"{what} to be Examples, or pairs of an input and its answers", brief(item))
    return Example(*item)
