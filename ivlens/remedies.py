"""What to pass instead of an argument that was refused: what was meant by it, or how to come by what was expected."""

import re
from pathlib import PurePath
from typing import Any

from .errors import brief

# How to come by what was expected.
MAKERS = {
    "Model": "load_model(source) gives one",
    "HookedTransformer": "load_model(source, engine='hooked') gives one where its family is represented",
    "Task": "load_task(source) gives one: of a built-in name, a file or rows",
    "Prompt": "task.prompts(n) gives a list of them, Prompt(text, answers) makes one by hand",
    "HeadMeans": "mean_head_activations(model, prompts) gives them",
    "PositionMeans": "mean_position_activations(model, prompts) gives them",
    "PartMeans": "mean_part_activations(model, prompts) gives them",
    "PositionPartMeans": "mean_position_activations(model, prompts, parts=...) gives them",
    "HeadEffects": "locate_heads(model, task) without race=True gives them",
    "RacedEffects": "locate_heads(model, task, race=True) gives them",
    "HeadMap": "locate_heads(model, task) gives one",
    "Head": "effects.top(k) gives some",
    "InstructionVector": "instruction_vector(model, effects) gives one",
    "dtype": "torch.float32 is one",
}


def is_table(value: Any) -> bool:
    """Whether a value is a table, such as a DataFrame: what iterates over it gets names of columns, not its rows."""
    return hasattr(value, "columns") or hasattr(value, "column_names")


def remedy_for(kind: str, value: Any) -> str:
    """How to come by an object of the class called ``kind`` where ``value`` was passed; empty where nobody knows."""
    match kind:
        case "Model" if isinstance(value, (str, PurePath)):
            return f"load_model({brief(str(value))}) gives one"
        case "Model" if hasattr(value, "config") and hasattr(value, "generate"):
            return "load_model(model, tokenizer=tokenizer) makes one of a model of Hugging Face"
        case "Task" if isinstance(value, (str, PurePath)):
            return f"load_task({brief(str(value))}) gives one"
        case "Task" if is_table(value):
            return "load_task(table, name=...) makes one of its rows"
        case "Prompt" if is_table(value):
            return "load_task(table, name=...).prompts(n) makes prompts of its rows"
        case "InstructionVector" if isinstance(value, str):
            return "load_vector(file, model) reads one; instruction_vector(model, effects) computes one"
        case "InstructionVector" if type(value).__name__ == "ndarray":
            return "torch.from_numpy(array) makes a tensor of an array"
    return MAKERS.get(kind, "")


def number_spelled(value: Any) -> int | float | None:
    """The number that a text spells, whole if it can be, or the whole number that a float equals; else None.

    Raises:
        ValueError: a text that spells no number.
    """
    number = float(value) if isinstance(value, (str, float)) else None
    return int(number) if number is not None and number.is_integer() else number


def head_meant(value: Any) -> tuple[int, int] | None:
    """The head that a text such as "20.5" or "L20H5" names, as (layer, head)."""
    named = re.fullmatch(r"\D{0,9}(\d{1,4})\D{1,9}(\d{1,4})", value) if isinstance(value, str) else None
    return (int(named[1]), int(named[2])) if named else None
