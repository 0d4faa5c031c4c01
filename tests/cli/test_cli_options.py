"""Options are those of the Python functions and configs that the verbs call: names, defaults, bounds, choices, help."""

import argparse
import inspect
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from ivlens import Guidance, cli
from ivlens.cli import names, options
from ivlens.cli.loading import given
from ivlens.cli.parser import OTHER_NAMES, build_parser
from ivlens.cli.training import training_config
from ivlens.cli.verbs import VERBS
from ivlens.models import PACKAGED
from ivlens.training import L2ToBase

PACKAGE = Path(cli.__file__).parents[1]
# for each verb that has options of Python's, the least that it must be given
LEAST = {
    "demo": "", "heads": "model task", "vector": "model task", "sweep": "model vector --task task",
    "train": "model --task task --out out", "compare": "base other --tasks task --out out",
    "continual": "model --sequence words-a --out out",
    "repair": "base tuned --keep old --learned new --out out", "import": "file",
    "export": "model vector --to gguf --layer 1 --out out",
}  # fmt: skip
# parameters that no single text gives, or that the verb takes in another form
OTHERWISE = {
    "locate_heads": {"instruction", "k"}, "CheckpointConfig": {"instruction", "rule"}, "steering_sweep": {"ks"},
    "TrainingConfig": {"guidance", "lora"}, "load_model": {"source", "revision", "adapter"}, "DemoConfig": set(),
    "load_vector": set(), "RepairConfig": {"instruction"},
    "ContinualConfig": {"training"}, "ablations": set(),
}  # fmt: skip
SOURCES = [(verb, each.source) for verb in VERBS for each in VERBS[verb].options]


def python_object(name: str) -> Any:
    """The function or class of the package that is called ``name``, wherever it is defined."""
    outer, *inner = name.split(".")
    for path in sorted(PACKAGE.rglob("*.py")):
        if re.search(rf"^(?:def|class) {outer}\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            module = ".".join(["ivlens", *path.relative_to(PACKAGE).with_suffix("").parts])
            found = getattr(import_module(module), outer)
            return getattr(found, inner[0]) if inner else found
    raise LookupError(name)


def parsed(verb: str) -> argparse.Namespace:
    words = [verb, *LEAST[verb].split()]
    return build_parser(words).parse_args(words)


def refused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line that a refused command says."""
    with pytest.raises(SystemExit) as left:
        cli.main(words.split())
    assert left.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_every_verb_with_options_of_python_is_looked_at() -> None:
    assert {verb for verb, _ in SOURCES} == set(LEAST)


@pytest.mark.parametrize(("verb", "source"), SOURCES)
def test_defaults_are_those_of_python(verb: str, source: str) -> None:
    """What the verb passes on when nothing is said is what Python would have taken."""
    parameters = inspect.signature(python_object(source)).parameters
    values = given(parsed(verb), source)
    assert values
    assert values == {name: parameters[name].default for name in values}


def test_pairs_are_read_and_shown_alike(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["repair", *LEAST["repair"].split(), "--depths", "0.1:0.9, 0:1"]
    assert build_parser(words).parse_args(words).depths == ((0.1, 0.9), (0.0, 1.0))
    default = options.parameters("RepairConfig")["depths"]
    shown = default.help_text.rpartition("default: ")[2].rstrip(")")
    assert default.value.read(shown) == default.default


@pytest.mark.parametrize(
    ("text", "why"), [("0.5", "two numbers as FIRST:LAST"), ("0:2", "from 0 to 1"), ("a:1", "a number")]
)
def test_wrong_pairs_are_refused_in_words(text: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert why in refused(f"repair {LEAST['repair']} --depths {text}", capsys)


@pytest.mark.parametrize(("verb", "values"), [
    ("heads", ("labelled", "plain", "qa", "chat")), ("continual", ("labelled", "plain", "qa", "chat")),
])  # fmt: skip
def test_choices_are_those_of_python(verb: str, values: tuple[str, ...]) -> None:
    """Literals are found by name in the source: two of one name would be taken for one another."""
    assert VERBS[verb].by_name()["format"].value.choices in ((), values)
    shown = VERBS[verb].by_name()["format"].help_text
    assert all(value in shown for value in values)
    assert "gguf" not in shown


def test_no_two_closed_sets_have_one_name() -> None:
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    names = [name for text in sources for name in re.findall(r"^(\w+) = (?:Literal|Annotated)\[", text, re.MULTILINE)]
    assert not {name for name in names if names.count(name) > 1}


@pytest.mark.parametrize("source", OTHERWISE)
def test_every_parameter_of_python_is_an_option(source: str) -> None:
    defaults = {
        name for name, each in inspect.signature(python_object(source)).parameters.items()
        if each.default is not each.empty
    }  # fmt: skip
    assert defaults - OTHERWISE[source] <= set(options.parameters(source))


@pytest.mark.parametrize("source", sorted({source for _, source in SOURCES}))
def test_help_is_what_the_docstring_says(source: str) -> None:
    if "Args:" not in (inspect.getdoc(python_object(source)) or ""):
        pytest.skip("no arguments in the docstring")
    found = options.parameters(source)
    assert not [name for name, each in found.items() if not each.help]


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "heads --help",
        "train --help",
        "heads m t --n-clean 0",
        "heads m t --nope",
        "nope",
        "--version",
        "tasks",
        "tasks --json",
        "tasks antonym",
        "tasks antonym --json",
        "tasks antonim",
        "tasks ./missing/own.csv",
        "tasks own.csv --labels Thing Colour",
        "tasks own.jsonl --fields input=input answers=output",
        "compare --help",
        "heads m t --metric x",
        "heads smollm3 antonym",
        "train gemma-270m --task antonym --out out",
        "compare smolm2 c --tasks antonym --out out",
        "heads smollm2 antonim",
        "repair smollm2 c --keep general --learned antonim --out out",
    ],
)
def test_help_usage_errors_and_tasks_import_nothing_heavy(words: str, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("input,output\n" + "".join(f"thing {n},colour {n}\n" for n in range(8)))
    rows = [json.dumps({"input": f"thing {n}", "output": f"colour {n}"}) for n in range(8)]
    (tmp_path / "own.jsonl").write_text("\n".join(rows))
    code = (
        "import sys\nfrom ivlens import cli\n"
        f"try: cli.main({words.split()!r})\n"
        "except SystemExit: pass\n"
        "print({'torch', 'transformers', 'pandas', 'numpy', 'jaxtyping', 'huggingface_hub'} & {*sys.modules})"
    )
    settings = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path, env=settings
    )
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_report_imports_no_models(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom ivlens import cli\ncli.main(['report', 'missing'])\n"
        "print({'transformers', 'transformer_lens', 'huggingface_hub', 'scipy'} & {*sys.modules})"
    )
    settings = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=settings)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_the_packaged_models_are_known_before_anything_is_imported() -> None:
    assert set(names.PACKAGED) == set(PACKAGED)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--version"])
    assert left.value.code == 0
    assert re.fullmatch(r"ivlens \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_what_is_out_of_bounds_is_refused_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert "argument --n-clean: expected a whole number of 1 or more; got '0'" in refused(
        "heads m t --n-clean 0", capsys
    )
    assert "argument --dtype: invalid choice: 'x'" in refused("heads m t --dtype x", capsys)
    assert "argument --stream-dtype: invalid choice" in refused("heads m t --stream-dtype int8", capsys)
    assert "argument --groups: expected a whole number of 2 or more; got '1'" in refused(
        "compare m n --tasks t --out o --groups 1", capsys
    )
    assert "expected a finite number" in refused("train m --task t --out o --learning-rate nan", capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("heads m t --top 5", "there is no option --top; did you mean '--k'?"),
        ("vector m t --heads 5", "did you mean '--k'?"),
        ("compare m n --tasks t --out o --jobs 2", "did you mean '--n-jobs'?"),
        ("compare m n --task t --out o", "there is no option --task; did you mean '--tasks'?"),
        ("heads m t --n-clear 3", "did you mean '--n-clean'?"),
        ("train m --task t --out o --layer 3", "did you mean '--vector-layer'?"),
        ("train m --task t --out o --scale=3", "did you mean '--vector-scale'?"),
        ("sweep --layer 3", "did you mean '--layers'?"),
        ("report r --zzzzzz", "there is no option --zzzzzz; see ivlens report --help"),
        ("steer m v", "there is no verb 'steer'; did you mean 'sweep'?"),
        ("figures", "did you mean 'python -m figures'?"),
        ("haeds m t", "did you mean 'heads'?"),
        ("heads m t --metric probabilty", "did you mean 'probability'?"),
        ("train m --task t --out o --guidance l2-strng", "did you mean 'l2-strong'?"),
        ("zzzzzz", "there is no verb 'zzzzzz'; the verbs are demo, heads,"),
    ],
)
def test_an_unknown_word_is_answered_with_what_may_be_meant(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(words, capsys)


def test_every_other_name_leads_somewhere() -> None:
    options = {each.flag for verb in VERBS.values() for group in verb.generated().values() for each in group.values()}
    leads = {each for each in OTHER_NAMES.values() if each != "python -m figures"}
    assert leads <= options | {*VERBS}


CLOSED = {
    "heads": "dtype format corruption metric method stream_dtype split", "vector": "format", "sweep": "dtype site",
    "train": "guidance decay precision teacher", "compare": "corruption metric method format stream_dtype",
    "export": "to position site format dtype", "import": "position site",
}  # fmt: skip


@pytest.mark.parametrize(("verb", "name"), [(verb, name) for verb in CLOSED for name in CLOSED[verb].split()])
def test_a_closed_set_of_values_is_in_the_help_and_refused_by_the_parser(
    verb: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"{verb} {LEAST[verb]} --{name.replace('_', '-')} x"
    _, choices = refused(words, capsys).split("invalid choice: 'x' (choose from ")
    entry = re.split(r"\n  -", shown_help(verb, capsys).partition(f"\n  --{name.replace('_', '-')} ")[2])[0]
    assert [each for each in re.findall(r"'([^']+)'", choices) if each not in entry] == []


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_in_the_words_of_its_readers(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No value, name or quotation of Python's, but for the functions in the titles of groups, and sites as typed."""
    text = re.sub(r"\(\S+ in Python\)|\b(?:resid_(?:pre|post)|attn_out)\b", "", shown_help(verb, capsys))
    assert (
        re.findall(
            r"\b(?:None|True|False|Chat|callable|cells?)\b|``|\"|\b(?:see \w+|training)\.|\b[a-z]+_[a-z_]+|[a-z]+\(",
            text,
        )
        == []
    )


def shown_help(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The help of a verb, each option on one line."""
    with pytest.MonkeyPatch.context() as settings:
        settings.setenv("COLUMNS", "500")
        with pytest.raises(SystemExit):
            cli.main([*verb.split(), "--help"])
    return capsys.readouterr().out


def test_an_option_of_another_name_reaches_its_parameter() -> None:
    words = ["train", "m", "--task", "t", "--out", "o", "--vector-layer", "3", "--layers", "1,2"]
    found = build_parser(words).parse_args(words)
    assert given(found, "Guidance.preset") == {"layer": 3, "scale": None}
    assert given(found, "TrainingConfig")["layers"] == (1, 2)


def test_the_weights_of_a_preset_are_multiplied() -> None:
    words = [*LEAST["train"].split(), "--guidance-factor", "0.1"]
    assert training_config(build_parser(["train", *words]).parse_args(["train", *words])).guidance == Guidance(
        (L2ToBase(300.0),)
    )


def test_lists_are_numbers_with_commas_and_ranges() -> None:
    words = ["compare", "m", "n", "--tasks", "t", "--out", "o", "--layers", "1,4-6", "--scales", "1,2.5"]
    found = build_parser(words).parse_args(words)
    assert (found.layers, found.scales) == ((1, 4, 5, 6), (1.0, 2.5))


def test_a_dtype_is_passed_on_as_torch_s() -> None:
    import torch

    words = ["heads", "m", "t", "--dtype", "bfloat16", "--stream-dtype", "float64"]
    found = build_parser(words).parse_args(words)
    assert given(found, "load_model")["dtype"] is torch.bfloat16
    assert given(found, "locate_heads")["stream_dtype"] is torch.float64


def test_arguments_in_a_docstring_are_read() -> None:
    text = "One.\n\nArgs:\n    a: first\n        of all. More.\n    b, c: of ``AdamW``.\n\nReturns:\n    d: none."
    assert options.argument_helps(text) == {"a": "first of all", "b": "of AdamW", "c": "of AdamW"}


def test_the_help_names_every_preset_and_the_default() -> None:
    from ivlens.cli import verbs
    from ivlens.training.config import DEFAULT_PRESET, PRESETS

    assert list(verbs.PRESETS) == list(PRESETS)
    (guidance,) = (each for each in verbs.VERBS["train"].arguments if each.name == "guidance")
    assert guidance.settings["help"].endswith(f"(default: {DEFAULT_PRESET})")
