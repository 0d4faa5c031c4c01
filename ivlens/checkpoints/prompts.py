"""The prompts of a comparison, with the same tokens for every checkpoint."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..errors import ArgumentError, MismatchError, PromptError, SourceWarning
from ..tasks import (
    AnyFormat,
    Example,
    Prompt,
    Task,
    Turns,
    clean_instruction,
    find_format,
    is_chat,
    option_count,
    prompts_for,
)
from ..vocabulary import Split
from .config import CheckpointConfig

REMEDY = "give both one tokenizer with tokenizer= (--tokenizer)"
TURNS = Turns("Say the next one.", ("Input", "Output"), (Example("one", ("two",)),), "two")


@dataclass(frozen=True)
class UnderNewTask:
    """A task's test inputs under another instruction: that of a task that a checkpoint learned.

    ``known`` are the new task's answers, where its examples have the input, else ().
    """

    prompts: list[Prompt]
    known: list[tuple[str, ...]]


@dataclass(frozen=True)
class TaskPrompts:
    """All prompts of one task; bare ones have neither instruction nor demonstrations, clean ones have both.

    ``options``: how many answers a guess has to choose from, None where these are not a few. ``under``: the test inputs
    under the instruction of each other task that a checkpoint learned. ``n_available``: examples in the test split.
    """

    task: str
    clean: list[Prompt]
    corrupted: list[Prompt]
    test: list[Prompt]
    bare_test: list[Prompt]
    bare_validation: list[Prompt]
    validation: list[Prompt]
    cloze: list[Prompt] | None
    options: int | None = None
    under: Mapping[str, UnderNewTask] = field(default_factory=dict)
    n_available: int = 0

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of the test prompts."""
        return tuple(prompt.input for prompt in self.test)


def draw_prompts(task: Task, config: CheckpointConfig, tokenizer: Any, learned: Sequence[Task] = ()) -> TaskPrompts:
    """The prompts of a task: of each kind the config's number, limited by the split's size.

    ``learned`` are the tasks that checkpoints learned.

    Raises:
        ArgumentError: an option outside its values, more groups than clean prompts, an instruction that the task does
            not have, or neither instruction nor demonstrations, so that clean prompts would not show the task.
        PromptError: the chat template refuses them.
    """
    instruction = clean_instruction(task, config.instruction, config.shots)

    def count(n: int, split: Split) -> int:
        return min(n, len(task.split(split)))

    asked = partial(task.prompts, seed=config.seed, format=config.format, tokenizer=tokenizer)
    clean = partial(asked, shots=config.shots, instruction=instruction)
    bare = partial(asked, shots=0, instruction=False)
    n_clean = count(config.n_clean, "train")
    if config.groups > n_clean:
        expected = f"groups to be at most {n_clean}, the number of clean prompts of {task.name!r}"
        raise ArgumentError(expected, str(config.groups))
    of_groups = n_clean // config.groups * config.groups
    n_test, n_validation = count(config.n_test, "test"), count(config.n_validation, "validation")
    cloze = None
    if task.cloze is not None:
        cloze = task.cloze_prompts(n_test, split="test", seed=config.seed)
    test = clean(n_test, split="test")
    under = {each.name: _under(each, test, config, tokenizer) for each in learned if each.name != task.name}
    return TaskPrompts(
        task.name,
        clean(of_groups, split="train"),
        clean(count(config.n_corrupted, "train"), split="train", corruption=config.corruption),
        test,
        bare(n_test, split="test"),
        bare(n_validation, split="validation"),
        clean(n_validation, split="validation"),
        cloze,
        option_count(task),
        under,
        len(task.split("test")),
    )


def _under(new: Task, test: Sequence[Prompt], config: CheckpointConfig, tokenizer: Any) -> UnderNewTask:
    """The test inputs of an old task under the instruction of a new one."""
    answers = {example.input: example.answers for example in reversed(new.examples)}  # as in prompts_for
    inputs = [prompt.input for prompt in test]
    prompts = prompts_for(
        new, inputs, shots=config.shots, instruction=clean_instruction(new, config.instruction, config.shots),
        format=config.format, seed=config.seed, tokenizer=tokenizer,
    )  # fmt: skip
    return UnderNewTask(prompts, [answers.get(each, ()) for each in inputs])


def check_same_tokens(name: str, base: Any, own: Any, prompts: Iterable[Prompt]) -> None:
    """Raise unless a checkpoint's ``own`` tokenizer gives the prompts the base's ids; warn of other differences.

    Tokens that only one of them has, and a BOS that only one of them adds, are allowed.

    Raises:
        MismatchError: a token or a prompt has other ids.
        PromptError: a prompt cannot be tokenised.
    """
    ours, theirs = base.get_vocab(), own.get_vocab()
    renumbered = [token for token in ours.keys() & theirs.keys() if ours[token] != theirs[token]]
    if renumbered:
        came = f"another vocabulary: {len(renumbered)} tokens have other ids, like {min(renumbered)!r:.40}"
        raise MismatchError("a checkpoint with the base's tokenizer", came, REMEDY)
    for prompt in prompts:
        if _ids(base, prompt) != _ids(own, prompt):
            came = f"other ids for {prompt.text!r:.80}"
            raise MismatchError("a checkpoint whose tokenizer gives the prompts the base's ids", came, REMEDY)
    differences = []
    if ours != theirs:
        differences.append(f"{len(ours.keys() ^ theirs.keys())} tokens that only one of them has")
    if _adds_bos(base) != _adds_bos(own):
        differences.append("a BOS that only one of them adds")
    if differences:
        message = f"{name}: its tokenizer and the base's differ in {' and '.join(differences)}"
        warnings.warn(message, SourceWarning, stacklevel=2)


def warn_of_another_template(name: str, base: Any, own: Any, format: AnyFormat) -> None:
    """Warn of a checkpoint whose own chat template writes prompts otherwise than the base's, which is used."""
    if not is_chat(format) or getattr(own, "chat_template", None) is None:
        return
    try:
        alike = find_format(format, own)(TURNS) == find_format(format, base)(TURNS)
    except (ArgumentError, PromptError):
        alike = False
    if not alike:
        message = f"{name}: its chat template writes prompts otherwise than the base's, which is used for all"
        warnings.warn(message, SourceWarning, stacklevel=2)


def _ids(tokenizer: Any, prompt: Prompt) -> tuple[int, ...]:
    """The ids of a prompt and its answer, without a BOS."""
    encoded = prompt.encode(tokenizer)
    ids = (*encoded.prompt_ids, *encoded.answer_ids)
    return ids[1:] if ids[0] == tokenizer.bos_token_id else ids


def _adds_bos(tokenizer: Any) -> bool:
    return tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
