"""What the Python functions say is said in the words of the command line: no argument, call or value of Python's."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ivlens
from ivlens import ArgumentError, TaskError, cli
from ivlens.cli.verbs import VERBS
from ivlens.cli.wording import as_options, flags_of, in_options

PACKAGE = Path(cli.__file__).parents[1]
# Rooms, and messages, of what only Python passes: objects, rows in memory, prompts by hand.
ROOMS_OF_PYTHON = {
    "cli", "views", "integrations", "explorer.py", "_laboratory.py", "_relearning.py", "remedies.py", "kinds.py"
}  # fmt: skip
PYTHON_S = {
    "call merge_lora(model) first, or give the adapter's folder", "call merge_lora(model) first, or export_adapter",
    "call merge_lora(model) first",
    "align them by what their tokens are: mean_position_activations(..., by='role')",
    "call model.generate(...) inside the with block", "pass load_model(model, tokenizer=...)",
    "load_model(bridge.hugging_face, tokenizer=...)", "Prompt(text, answers) makes one by hand, task.prompts(n) many",
    'as in Prompt("1 + 1 =", " 2")', "instruction_vector(...) builds one on the base",
    "merge_lora(model) folds the updates in",
}  # fmt: skip
VERBS_OF_MODELS = ("heads", "vector", "sweep", "train", "compare", "repair")
CALL = re.compile(rf"\b(?:{'|'.join(sorted(ivlens.__all__, key=len, reverse=True))})\(")


def messages() -> Iterator[str]:
    """Each text that an error or a warning of the package may hold, with "1" for its values."""
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0]
        if room in ROOMS_OF_PYTHON:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _is_warning(node)):
                yield from _texts(node)
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr):
                yield from (text for text in _texts(node.value) if " " in text)


def _is_warning(node: ast.Call) -> bool:
    return ast.unparse(node.func) in ("warnings.warn", "log.warning") or ast.unparse(node.func).endswith("Error")


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(each.value) if isinstance(each, ast.Constant) else "1" for each in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


@pytest.mark.parametrize("verb", VERBS_OF_MODELS)
def test_no_message_names_an_argument_that_the_verb_has_an_option_for(verb: str) -> None:
    flags = flags_of(VERBS[verb])
    named = [rf"(?:{'|'.join(flags)})=", *(rf"{name}\b" for name in flags if "_" in name)]
    python = re.compile(rf"(?<![\w./'\"-])(?:{'|'.join(named)})|{CALL.pattern}")
    texts = [text for text in messages() if python.search(text) and text not in PYTHON_S]
    assert len(texts) > 20
    for text in texts:
        for error in (ArgumentError(text), ArgumentError("another", "", text)):
            assert not python.search(in_options(error, VERBS[verb]))


def test_messages_of_python_are_still_said() -> None:
    assert {*messages()} >= PYTHON_S


@pytest.mark.parametrize(
    ("verb", "error", "words"),
    [
        ("heads", ArgumentError("x", "", "load the model with dtype=torch.float32; or look"),
         "expected x; load the model with --dtype float32; or look"),
        ("heads", TaskError("x", "", "as in fields={'input': 'a b', 'answers': 'c', 'options': ['d', 'e']}, write"),
         "expected x; as in --fields 'input=a b' answers=c options=d,e, write"),
        ("tasks", TaskError("x", "", "with fields=('a', 'b') that"), "expected x; with --fields a b that"),
        ("compare", ArgumentError("a folder with a whole model", "m", "load_model(base, adapter=folder)"),
         "expected a folder with a whole model; got m; give the model that it was trained on, and the folder as its "
         "adapter"),
        ("repair", ArgumentError("x", "", "export_hf writes the whole model"),
         "expected x; --export hf writes the whole model"),
        ("heads", ArgumentError("a file", "", "choose another path, or save with overwrite=True"),
         "expected a file; choose another --out"),
    ],
)  # fmt: skip
def test_errors_in_words(verb: str, error: Any, words: str) -> None:
    assert in_options(error, VERBS[verb]) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("effects are near the noise; pass stream_dtype=torch.float32, which", "effects are near the noise; pass "
         "--stream-dtype float32, which"),
        ("steps=100 was not compared: ArgumentError: expected k to be at most 8; got 9",
         "steps=100 was not compared: ArgumentError: expected --k to be at most 8; got 9"),
        ("fields of n_clean/x.csv were not read: 'n_clean'", "fields of n_clean/x.csv were not read: 'n_clean'"),
    ],
)  # fmt: skip
def test_warnings_name_the_option_and_leave_names_of_files_and_checkpoints(text: str, words: str) -> None:
    assert as_options(text, VERBS["compare"]) == words
    assert as_options(text, None) == text
