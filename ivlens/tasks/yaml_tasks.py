"""Task files of lm-evaluation-harness as tasks: their templates on their documents, without running their code.

Prompts hold the file's own texts where they are written by the format ``as_written``. What would need the file's Python
functions, or is judged in ways that ivlens has not, is refused by name.
"""

import re
from ast import literal_eval
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import TaskError, brief, few, reason
from .examples import Example
from .parts import DEMONSTRATION, INSTRUCTION, QUERY, SEPARATOR, Composed
from .source import decoded, read_bytes
from .turns import Turns
from .yaml_documents import Document, documents
from .yaml_scoring import REMEDY, judged

SUFFIXES = (".yaml", ".yml")
OUTPUTS = ("multiple_choice", "generate_until", "loglikelihood")
READ = {
    *("task", "dataset_path", "dataset_name", "dataset_kwargs", "test_split", "validation_split", "training_split"),
    *("output_type", "description", "doc_to_text", "doc_to_target", "doc_to_choice", "target_delimiter"),
    *("fewshot_delimiter", "metric_list", "filter_list", "generation_kwargs"),
}
# Names, and what is said about demonstrations, which prompts choose themselves.
UNUSED = {
    *("task_alias", "tag", "metadata", "num_fewshot", "fewshot_split", "fewshot_config", "repeats"),
    *("should_decontaminate", "doc_to_decontamination_query"),
}


def as_written(turns: Turns) -> str:
    """The instruction, every demonstration with its answer, and the query, as they are, with blank lines between."""
    blocks, instruction = [], None
    for question in turns.questions:
        if question.instruction not in (None, instruction):
            blocks.append([(INSTRUCTION, str(question.instruction))])
        instruction = question.instruction
        asked = question.answer is None
        own = [(QUERY[1] if asked else DEMONSTRATION[1], question.input)]
        blocks.append(own if asked else [*own, (DEMONSTRATION[3], f" {question.answer}")])
    return Composed([part for block in blocks for part in [(SEPARATOR, "\n\n"), *block]][1:])


def is_task_file(source: object) -> bool:
    """Whether a source is the path of a YAML file."""
    return isinstance(source, (str, Path)) and Path(source).suffix.lower() in SUFFIXES


def read_task_file(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The fields of the task in a file of lm-evaluation-harness, and notes for the user.

    Raises:
        TaskError: the file or its documents cannot be read, or it needs what is not done here.
    """
    config = _config(path)
    _check_fields(config, path)
    scoring, note = judged(config, path)
    reader = _Documents(path, config)
    examples = reader.examples()
    own = {example.instruction for example in examples}
    shared = own.pop() if len(own) == 1 else None
    if shared is not None:
        examples = [Example(each.input, each.answers, each.options) for each in examples]
    instructions = () if shared is None else (shared,)
    name = config.get("task", path.stem)
    facts = {"name": name, "examples": examples, "instructions": instructions, "source": str(path), "scoring": scoring}
    return facts, [each for each in (*reader.notes(), note) if each]


def _check_fields(config: dict[str, Any], path: Path) -> None:
    """Raise TaskError where a file has what would be needed but is not read, or lacks what is."""
    others = [key for key in config if key not in READ | UNUSED and config[key] not in (None, False)]
    if others:
        raise TaskError(f"{path} to hold nothing but what can be read without running it", few(others), REMEDY)
    output = config.get("output_type", "generate_until")
    if output not in OUTPUTS:
        raise TaskError(f"the output_type of {path} to be one of {few(OUTPUTS)}", brief(output), REMEDY)
    needed = ["doc_to_text", "doc_to_target", *(["doc_to_choice"] if output == "multiple_choice" else [])]
    if missing := [key for key in needed if config.get(key) is None]:
        raise TaskError(f"{path} to have {few(missing)}", few(config), REMEDY)
    if not isinstance(config.get("task", ""), str):
        raise TaskError(f"{path} to be of one task", f"task: {brief(config['task'])}", "pass the files of its tasks")


@dataclass
class _Documents:
    """Writes a file's templates out on its documents, as the harness does.

    ``changed`` counts prompts in which blanks are others here, ``repeated`` documents that ask what others ask.
    """

    path: Path
    config: dict[str, Any]
    changed: int = 0
    repeated: int = 0

    def examples(self) -> list[Example]:
        """One example per text and options; documents that repeat both have their answers in one."""
        found: dict[tuple[str, tuple[str, ...]], Example] = {}
        for number, document in enumerate(documents(self.config, self.path), 1):
            made = self._example(document, f"document {number} of {self.path}")
            known = found.get((made.input, made.options))
            if known is not None:
                self.repeated += 1
                made = Example(made.input, (*known.answers, *made.answers), made.options, known.instruction)
            found[made.input, made.options] = made
        return list(found.values())

    def notes(self) -> list[str]:
        """Notes for the user on how the documents were read."""
        blanks = (
            f"{self.changed} prompts of {self.path} differ in blanks from lm-evaluation-harness': an answer follows a "
            "space here, an instruction is followed by a blank line"
        )
        repeated = f"{self.repeated} documents of {self.path} repeat others, whose answers are all accepted"
        return [blanks if self.changed else "", repeated if self.repeated else ""]

    def _example(self, document: Document, where: str) -> Example:
        text = self._value("doc_to_text", document, where)
        if isinstance(text, int):
            raise TaskError(f"{where} to have its options after one prompt", "one prompt per option", REMEDY)
        options = self._options(document, where)
        targets = self._value("doc_to_target", document, where)
        answers = [_answer(each, options, where) for each in (targets if isinstance(targets, list) else [targets])]
        about = str(self._value("description", document, where)) if self.config.get("description") else ""
        output = self.config.get("output_type")
        shown = options if output == "multiple_choice" else ()
        made = Example(text, tuple(answers), shown, about.strip() or None)
        delimiter = "" if output == "loglikelihood" else self.config.get("target_delimiter", " ")
        theirs = f"{about}{text}{delimiter}{answers[0]}"
        ours = "\n\n".join([*filter(None, [made.instruction]), f"{made.input} {made.answers[0]}"])
        self.changed += theirs != ours
        return made

    def _options(self, document: Document, where: str) -> tuple[str, ...]:
        if self.config.get("doc_to_choice") is None:
            return ()
        value = self._value("doc_to_choice", document, where)
        listed = list(value.values()) if isinstance(value, dict) else value
        if not isinstance(listed, (list, tuple)) or not all(isinstance(each, str) for each in listed):
            raise TaskError(f"doc_to_choice in {where} to give a list of texts", brief(value))
        return tuple(listed)

    def _value(self, key: str, document: Document, where: str) -> Any:
        """A field's value for a document: a column, or a template written out and read as the harness reads it."""
        template = self.config[key]
        if not isinstance(template, str):
            return template
        if template in document and key != "description":
            return document[template]
        try:
            text = ENVIRONMENT.from_string(template).render(**document)
            if key == "doc_to_choice":
                return literal_eval(text)
        except Exception as error:  # a template may raise anything
            raise TaskError(f"a template {key} that can be written out for {where}", reason(error)) from error
        if key != "description" and text.isdigit() and self.config.get("doc_to_choice") is not None:
            return int(text)
        return _as_list(text) if key == "doc_to_target" and text[:1] == "[" and text[-1:] == "]" else text


def _answer(target: Any, options: Sequence[str], where: str) -> str:
    """A target as text: the option of its number, or itself."""
    if not options or isinstance(target, bool) or not isinstance(target, int):
        return str(target)
    if not 0 <= target < len(options):
        raise TaskError(f"the answer of {where} to be one of {len(options)} options", str(target))
    return options[target]


def _as_list(text: str) -> Any:
    """The list that a text spells, else the text."""
    try:
        return literal_eval(text)
    except (SyntaxError, ValueError):
        return text


class _Loader(yaml.SafeLoader):
    """Plain YAML: a Python function is refused by name."""


def _refuse_function(loader: _Loader, node: yaml.Node) -> None:
    came = f"!function {brief(node.value)} in line {node.start_mark.line + 1}"
    raise TaskError("a task file that can be read without running code", came, REMEDY)


_Loader.add_constructor("!function", _refuse_function)


def _config(path: Path, outer: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The fields of a file over those of the files that it includes."""
    if path in outer:
        raise TaskError("task files that do not include each other", few(map(str, [*outer, path])))
    try:
        config = yaml.load(decoded(read_bytes(path), path), Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise TaskError(f"{path} to be YAML", reason(error)) from error
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise TaskError(f"{path} to hold the fields of a task", brief(config))
    included = config.pop("include", [])
    merged: dict[str, Any] = {}
    for each in [included] if isinstance(included, str) else included:
        file = path.parent / each
        if not file.is_file():
            raise TaskError(f"the file that {path} includes", f"none at {file}")
        merged |= _config(file, (*outer, path))
    return merged | config


def _regex_replace(text: str, pattern: str, new: str, count: int = 0) -> str:
    return re.sub(pattern, new, text, count=count)


ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
ENVIRONMENT.filters["regex_replace"] = _regex_replace
