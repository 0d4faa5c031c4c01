"""Messages of the Python functions in the words of the command line: ``n_clean`` is ``--n-clean``."""

import re
import shlex
from ast import literal_eval
from collections.abc import Mapping

from ..errors import IvlensError
from .verbs import Verb

WITHIN = r"(?<![\w./-])"  # not inside a path or a longer name
UNQUOTED = r"(?<![\w./'\"-])"
ADVICE = r"\b(pass|with|without|use|leave|or|and) "  # before an argument that a message advises to pass
# What only Python takes, and what the command line takes for it.
PYTHON = {
    r"load_model\(folder\) for the model, or load_model\(folder, adapter=\.\.\.\) where": "give both where",
    r"load_model\(base, adapter=folder\)": "give the model that it was trained on, and the folder as its adapter",
    r"load_model\(folder\)": "give the folder as the model",
    r"save (?:one|some) with [\w.]+\.save\(path\)": "'ivlens vector' writes one",
    r"choose another path, or save with overwrite=True": "choose another --out",
    r"use export_hf instead": "pass --export hf",
    r"export_hf writes": "--export hf writes",
    r", or only_forgotten=False": "",
    r"pass system=None and leave system turns": "leave --system and system turns",
    r"lower max_tokens": "lower max-tokens in --scoring",
    r"run the task by run_lm_eval, or write": "write",
    r"\bcompare_checkpoints\b": "run 'ivlens compare'",
    r"chat_format\(tokenizer, \.\.\.\)": "--format chat",
    r"use mean_difference and steer, steering_sweep or evaluate; ": "",
    r"L2ToBase takes": "the guidance's L2 term takes",
    r"divide its weight or the learning rate by": "divide --guidance-factor or --learning-rate by",
    r"\bchoose another guidance\b": "choose another --guidance",
}


def in_options(error: IvlensError, verb: Verb | None) -> str:
    """An error's text, the names of Python arguments as the verb's options."""
    if verb is None:
        return str(error)
    flags = flags_of(verb)
    expected, do = (_with_flags(text, flags) for text in (f"expected {error.expected}", error.do))
    came = _assigned(error.came, flags)
    return "; ".join(text for text in (expected, came and f"got {came}", do) if text)


def as_options(text: str, verb: Verb | None) -> str:
    """A warning, or the text of an error that was kept, the names of Python arguments as the verb's options.

    Names of checkpoints stand in it, which may be written like arguments: ``lr=0.1``.
    """
    return text if verb is None else _with_flags(text, flags_of(verb), ADVICE)


def flags_of(verb: Verb) -> dict[str, str]:
    """The option for each Python argument that the verb has one for."""
    own = {argument.name: argument.names[-1] for argument in verb.arguments if argument.names[-1].startswith("--")}
    read = {
        name: f"--{(each.prefix + name).replace('_', '-')}"
        for each in verb.options for name in verb.names(each.source)
    }  # fmt: skip
    return own | read


def _with_flags(text: str, flags: Mapping[str, str], before: str = WITHIN) -> str:
    """Names with an underscore anywhere, other ones where they are assigned or are what is expected."""
    for python, words in PYTHON.items():
        text = re.sub(python, words, text)
    text = _assigned(text, flags, before)
    names = "|".join(sorted((name for name in flags if "_" in name), key=len, reverse=True))
    if names:
        text = re.sub(rf"{UNQUOTED}({names})\b(?![(/])", lambda found: flags[found[1]], text)
    return re.sub(
        r"\bexpected (\w+) (?=to |from |above )", lambda found: f"expected {flags.get(found[1], found[1])} ", text
    )


def _assigned(text: str, flags: Mapping[str, str], before: str = WITHIN) -> str:
    """``tokenizer=`` as ``--tokenizer``, which may stand behind it in brackets already; values but True follow."""
    names = "|".join(sorted(flags, key=len, reverse=True))
    if not names:
        return text
    text = re.sub(r"\bfields=(\{[^}]*\}|\([^)]*\))", _columns, text)
    words = rf"(?P<before>{before})(?P<name>{names})="
    text = re.sub(rf"{words}True\b", lambda found: f"{found['before']}{flags[found['name']]}", text)
    text = re.sub(rf"{words} \(--[\w-]+\)", lambda found: f"{found['before']}{flags[found['name']]}", text)
    text = re.sub(rf"{words}(?:torch\.)?(?=[\w'\"])", lambda found: f"{found['before']}{flags[found['name']]} ", text)
    return re.sub(words, lambda found: f"{found['before']}{flags[found['name']]}", text)


def _columns(found: re.Match[str]) -> str:
    """What ``fields=`` names, as ``--fields`` takes it."""
    columns = literal_eval(found[1])
    if isinstance(columns, dict):
        columns = {role: "..." if column is ... else column for role, column in columns.items()}
        texts = {role: column if isinstance(column, str) else ",".join(column) for role, column in columns.items()}
        columns = [f"{role}={column}" for role, column in texts.items()]
    return f"--fields {'INPUT ANSWERS' if ... in columns else shlex.join(columns)}"
