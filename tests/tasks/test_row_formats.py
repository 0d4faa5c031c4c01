"""Rows of the formats that data sets have: a small file of each, in its shape and our words, becomes what it should."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ivlens.errors import ArgumentError, TaskError
from ivlens.tasks import Example, OptionScoring, Task, load_task, read_source
from ivlens.tasks.row_formats import ROW_FORMATS, RowFormat
from ivlens.tasks.values import KINDS, chosen

COLOURS = ("red", "green", "blue")
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is snow?"},
    {"role": "assistant", "content": "Frozen water."},
    {"role": "user", "content": "And rain?"},
    {"role": "assistant", "content": "Water."},
]
BEFORE = (("system", "Be brief."), ("user", "What is snow?"), ("assistant", "Frozen water."))
SHARED = [{"from": "human", "value": "And rain?"}, {"from": "gpt", "value": "Water."}]
GRASS = Example("What colour is grass?", "green", COLOURS)
WHERE = Example("Ada lives in Rome.\n\nWhere does she live?", "Rome")

# for each format: its name, rows of it, what the first of them becomes, and the columns that are not read
CASES: list[tuple[str, list[dict[str, Any]], Example, list[str]]] = [
    ("OpenAI messages", [{"messages": TALK, "id": 1}], Example("And rain?", "Water.", history=BEFORE), ["id"]),
    ("ShareGPT conversations", [{"conversations": SHARED, "system": "Be brief."}],
     Example("And rain?", "Water.", history=BEFORE[:1]), []),
    ("HellaSwag", [{"ctx": "He opens the door and", "endings": ["sleeps.", "walks in."], "label": "1", "ind": 4},
                   {"ctx": "She lifts the lid and", "endings": ["looks.", "swims."], "label": "0"},
                   {"ctx": "They wait and", "endings": ["wait.", "fly."], "label": ""}],
     Example("He opens the door and", "walks in.", ("sleeps.", "walks in.")), ["ind"]),
    ("ARC, CommonsenseQA", [{"question": GRASS.input, "answerKey": "B", "id": "x",
                             "choices": {"label": ["A", "B", "C"], "text": [*COLOURS]}}], GRASS, ["id"]),
    ("ARC, CommonsenseQA", [{"question": GRASS.input, "answerKey": "2",
                             "choices": [{"label": str(n + 1), "text": each} for n, each in enumerate(COLOURS)]}],
     GRASS, []),
    ("MMLU", [{"question": GRASS.input, "choices": [*COLOURS], "answer": 1, "subject": "botany"},
              {"question": "What colour is blood?", "choices": [*COLOURS], "answer": 0},
              {"question": "What colour is it?", "choices": [*COLOURS], "answer": -1}], GRASS, ["subject"]),
    ("MMLU", [{"question": GRASS.input, "choices": [*COLOURS], "answer": "B"}], GRASS, []),
    ("C-Eval", [{"id": 1, "question": GRASS.input, "A": "red", "B": "green", "C": "blue", "D": "black", "answer": "B"}],
     Example(GRASS.input, "green", (*COLOURS, "black")), ["id"]),
    ("RACE, MedQA", [{"article": "A meadow is green.", "question": "What is?", "options": ["a meadow", "a sea"],
                      "answer": "A"}],
     Example("A meadow is green.\n\nWhat is?", "a meadow", ("a meadow", "a sea")), []),
    ("RACE, MedQA", [{"question": GRASS.input, "options": dict(zip("ABC", COLOURS, strict=True)), "answer": "green",
                      "answer_idx": "B"}], GRASS, ["answer_idx"]),
    ("BoolQ", [{"question": "is snow warm", "passage": "Snow is frozen.", "answer": False}],
     Example("Snow is frozen.\n\nis snow warm", "no", ("yes", "no")), []),
    ("SQuAD", [{"context": "Ada lives in Rome.", "question": "Where does she live?",
                "answers": {"text": ["Rome", "Rome"], "answer_start": [13, 13]}},
               {"context": "Eve is old.", "question": "Where does she live?", "answers": {"text": []}}], WHERE, []),
    ("context, question, answer", [{"context": "Ada lives in Rome.", "question": "Where does she live?",
                                    "answer": "Rome"}], WHERE, []),
    ("passage, question, answer", [{"passage": "Ada lives in Rome.", "question": "Where does she live?",
                                    "answer": "Rome"}], WHERE, []),
    ("Dolly", [{"instruction": "Where does she live?", "context": "Ada lives in Rome.", "response": "Rome",
                "category": "qa"},
               {"instruction": "Name a city.", "context": "", "response": "Oslo"}],
     Example("Ada lives in Rome.", "Rome", instruction="Where does she live?"), ["category"]),
    ("Alpaca", [{"instruction": "Translate.", "input": "dog", "output": "chien"},
                {"instruction": "Name its young.", "input": "dog", "output": "puppy"},
                {"instruction": "Name a fruit.", "input": "", "output": "fig"}],
     Example("dog", "chien", instruction="Translate."), []),
    ("BIG-bench", [{"input": GRASS.input, "target_scores": {"red": 0, "green": 1, "blue": 0}}], GRASS, []),
    ("P3", [{"inputs_pretokenized": GRASS.input, "targets_pretokenized": "\ngreen", "answer_choices": [*COLOURS],
             "inputs": [1, 2], "targets": [3]}], GRASS, ["inputs", "targets"]),
    ("FLAN", [{"inputs": "Say hello.", "targets": "hello", "task": "greeting"}], Example("Say hello.", "hello"),
     ["task"]),
    ("input, output", [{"input": "hot", "output": ["cold", "cool"]}], Example("hot", ("cold", "cool")), []),
    ("BBH", [{"input": "not true is", "target": "false"}], Example("not true is", "false"), []),
    ("TRACE", [{"prompt": "Snow is", "answer": "white"}, {"prompt": "Rain is", "answer": ""}],
     Example("Snow is", "white"), []),
    ("prompt, completion", [{"prompt": "Snow is", "completion": " white"}], Example("Snow is", "white"), []),
    ("prompt, response", [{"prompt": "Snow is", "response": "white"}], Example("Snow is", "white"), []),
    ("question, answer", [{"question": "Is it?", "answer": "yes"}], Example("Is it?", "yes"), []),
]  # fmt: skip
NAMES = [f"{name} {at}" for at, (name, _, _, _) in enumerate(CASES)]


def test_every_format_has_a_case() -> None:
    assert {name for name, _, _, _ in CASES} == {each.name for each in ROW_FORMATS}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_rows_become_examples_by_what_they_are(
    tmp_path: Any, case: tuple[str, list[dict[str, Any]], Example, list[str]]
):
    name, rows, expected, unread = case
    for source, written in _sources(tmp_path, rows).items():
        reading = read_source(written, None, {})
        assert reading.format.partition(" rows")[0] == name, source
        assert reading.task.examples[0] == expected, source
        assert [*reading.unread] == unread, source
        assert len(reading.task.examples) == len(rows) - reading.unanswered
        assert load_task(written) == reading.task


def _sources(folder: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows in every container."""
    columns = dict.fromkeys(name for row in rows for name in row)
    table = {name: [row.get(name) for row in rows] for name in columns}
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "lines.jsonl").write_text("\n".join(map(json.dumps, [*rows, *rows[:1]])))
    pd.DataFrame(table).astype(object).to_json(folder / "columns.json")
    sources = {"rows": rows, "frame": pd.DataFrame(table), "list": folder / "rows.json"}
    sources |= {"by index": folder / "columns.json"} if len(rows) > 1 else {}
    return sources | ({"columns": table} if len(rows) > 1 or len(table) < 3 else {})


def test_squads_own_files(tmp_path: Path) -> None:
    place = {"question": "Where does she live?", "answers": [{"text": "Rome", "answer_start": 13}], "id": "x"}
    none = {"question": "Where does he live?", "answers": [], "is_impossible": True}
    paragraph = {"context": "Ada lives in Rome.", "qas": [place, none]}
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"version": "v2", "data": [{"title": "Ada", "paragraphs": [paragraph]}]}))
    with pytest.warns(UserWarning, match="1 rows of .*squad.json have no answer"):
        assert load_task(path).examples == (WHERE,)
    for wrong in ([{"paragraphs": 1}], [{"paragraphs": [{"context": "c"}]}], [{"paragraphs": [{"qas": ["q"]}]}]):
        path.write_text(json.dumps({"data": wrong}))
        with pytest.raises(TaskError, match=r"squad.json"):
            load_task(path)


def test_columns_of_options_are_not_left_out_unnoticed() -> None:
    rows = [{"question": "What is snow?", "option_a": "white", "option_b": "black", "answer": "a"}]
    with pytest.raises(TaskError, match=re.escape("'options': ['option_a', 'option_b']")):
        load_task(rows)
    with pytest.raises(TaskError, match="did you mean 'answer'"):
        load_task(rows, fields=("question", "anwser"))
    with pytest.raises(ArgumentError, match="did you mean 'options'"):
        load_task(rows, fields={"input": "question", "answers": "answer", "option": "option_a"})


def test_hidden_answers_are_left_out_and_counted() -> None:
    rows = [{"question": f"q{n}", "choices": ["a", "b"], "answer": -n % 2 or -1} for n in range(4)]
    with pytest.warns(UserWarning, match="2 rows of the given rows have no answer and were left out"):
        task = load_task(rows)
    assert [example.answers for example in task.examples] == [("b",), ("b",)]
    with pytest.raises(TaskError, match="to hold one example or more; got 1 rows, none with an answer"):
        load_task([{"question": "q", "choices": ["a", "b"], "answer": ""}])


def test_an_instruction_that_is_shared_is_the_tasks_and_others_stay_with_their_rows() -> None:
    rows = [{"instruction": "Translate.", "input": word, "output": f"le {word}"} for word in ("dog", "cat")]
    task = load_task(rows)
    assert task.instructions == ("Translate.",)
    assert {example.instruction for example in task.examples} == {None}
    task = load_task([*rows, {"instruction": "Name its young.", "input": "dog", "output": "puppy"}])
    assert task.instructions == ()
    assert [(each.instruction, each.answers) for each in task.examples if each.input == "dog"] == [
        ("Translate.", ("le dog",)), ("Name its young.", ("puppy",)),
    ]  # fmt: skip


def test_what_names_an_option_is_found_in_all_rows_and_never_guessed() -> None:
    def rows(*pairs: tuple[list[str], Any]) -> list[dict[str, Any]]:
        return [
            {"question": f"q{at}", "choices": options, "answer": answer} for at, (options, answer) in enumerate(pairs)
        ]

    blood = ["O", "A", "B"]
    letters = load_task(rows((["x", "y", "z"], "C"), (blood, "B")))
    assert letters.examples[1].answers == ("A",)
    in_words = load_task(rows((["x", "y", "z"], "z"), (blood, "B")))
    assert in_words.examples[1].answers == ("B",)
    numbers = load_task(rows((["1", "2", "0"], 2), (["5", "6"], 0)))
    assert numbers.examples[0].answers == ("0",)
    with pytest.raises(TaskError, match="in row 1 of the given rows, which is the text of one option and the letter"):
        load_task(rows((blood, "B")))
    with pytest.raises(TaskError, match="row 2 of the given rows to name one of its options as an answer"):
        load_task(rows((["x", "y"], "x"), (["x", "y"], "z")))
    with pytest.raises(TaskError, match="row 1 of the given rows to name one of its options"):
        load_task(rows((["x", "y"], 2)))


def test_numbers_by_letter_are_options_and_scores_are_not() -> None:
    (example,) = load_task([{"question": "2 + 2", "options": {"A": 3, "B": 4}, "answer": "B"}]).examples
    assert example == Example("2 + 2", "4", ("3", "4"))
    fields = {"input": "stem", "answers": "key", "options": "target_scores"}
    (example,) = load_task([{"stem": "2 + 2", "key": "4", "target_scores": {"3": 0, "4": 1}}], fields=fields).examples
    assert example == Example("2 + 2", "4", ("3", "4"))


def test_options_that_are_missing_or_labelled_alike_are_refused() -> None:
    whole = {"question": "2 + 2", "choices": ["3", "4"], "answer": 1}
    with pytest.raises(TaskError, match="field 'choices' in row 2"):
        load_task([whole, {"question": "2 + 3", "choices": None, "answer": 1}])
    alike = {"label": ["A", "A"], "text": ["3", "4"]}
    with pytest.raises(TaskError, match="field 'choices' in row 1 of the given rows to label every option differently"):
        load_task([{"question": "2 + 2", "choices": alike, "answerKey": "A"}])


def test_what_pandas_makes_of_columns_with_missing_values() -> None:
    rows = {"question": ["2 + 2", "2 + 3", "2 + 4"], "choices": [["3", "4"]] * 3, "answer": [1, None, -1]}
    with pytest.warns(UserWarning, match="2 rows of the given rows have no answer"):
        assert load_task(pd.DataFrame(rows)).examples == (Example("2 + 2", "4", ("3", "4")),)
    inputs = pd.array(["hot", None], dtype="string")
    rows = {"instruction": ["Say the opposite.", "Say hello."], "input": inputs, "output": ["cold", "hello"]}
    assert [each.input for each in load_task(pd.DataFrame(rows)).examples] == ["hot", "Say hello."]


@given(st.lists(st.text(min_size=1, max_size=3), min_size=2, max_size=5, unique=True), st.integers(-2, 9) | st.text())
def test_an_answer_names_an_option_or_none(options: list[str], answer: Any) -> None:
    for kind in KINDS:
        assert chosen(answer, tuple(options), (), kind) in (None, *options)


WORD = st.sampled_from(["a", "b", "A", "1", "yes", "", " ", "-1", "true"]) | st.text(max_size=2)
SCALAR = WORD | st.none() | st.booleans() | st.integers(-2, 3) | st.floats()
MESSAGES = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": SCALAR})
CELL = st.one_of(
    SCALAR, st.lists(SCALAR, max_size=3), st.lists(MESSAGES, max_size=4), st.dictionaries(WORD, SCALAR, max_size=3),
    st.fixed_dictionaries({"label": st.lists(WORD, max_size=3), "text": st.lists(SCALAR, max_size=3)}),
    st.lists(st.fixed_dictionaries({"label": WORD, "text": SCALAR}), max_size=3),
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(data=st.data(), format=st.sampled_from(ROW_FORMATS))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_any_cells_are_a_task_or_a_task_error(data: st.DataObject, format: RowFormat) -> None:
    row = st.fixed_dictionaries(dict.fromkeys(format.has, CELL), optional=dict.fromkeys(format.maybe, CELL))
    rows = data.draw(st.lists(row, min_size=1, max_size=3))
    for source in (rows, {name: [each.get(name) for each in rows] for name in rows[0]}):
        try:
            task = load_task(source)
        except TaskError:
            continue
        assert all(example.answers for example in task.examples)
        assert len(task.prompts(shots=0)) == len(task.examples)


def test_columns_by_role() -> None:
    rows = [{"stem": "2 + 2", "key": "B", "a": "3", "b": "4", "how": "Add.", "at": "school", "said": TALK[:3], "n": 1}]
    roles = {"input": "stem", "answers": "key", "options": ["a", "b"], "context": "at", "instruction": "how"}
    rows[0]["key"] = "b"
    with pytest.warns(UserWarning, match="not read: 'n'"):
        task = load_task(rows, fields={**roles, "history": "said"})
    assert task.examples == (Example("school\n\n2 + 2", "4", ("3", "4"), None, BEFORE),)
    assert task.instructions == ("Add.",)
    for wrong in ({"input": "stem"}, {**roles, "hint": "n"}, {**roles, "context": "stem"}, {**roles, "input": ["a"]}):
        with pytest.raises(ArgumentError, match="fields to"):
            load_task(rows, fields=wrong)
    with pytest.raises(TaskError, match="row 1 of the given rows to have the field 'key'"):
        load_task([{"stem": "2 + 2"}], fields={"input": "stem", "answers": "key"})


def test_what_is_unknown_gets_remedies() -> None:
    with pytest.raises(TaskError) as caught:
        load_task([{"premise": "a", "label": "b"}])
    said = ("fields=('premise', 'label')", "fields={'input': ...,", "pairs of an input")
    assert all(each in str(caught.value) for each in said)
    with pytest.raises(TaskError, match=r"fields=\(\.\.\., \.\.\.\) for input and answers"):
        load_task([{"premise": "a", "text": "b", "label": "c"}])
    with pytest.raises(TaskError, match="add the column 'answerKey' of ARC"):
        load_task([{"question": "a", "choices": ["b", "c"]}])
    with pytest.raises(TaskError, match=r"in row 1 of the given rows to be of one of system, .*got 'tool'"):
        load_task([{"messages": [{"role": "tool", "content": "x"}]}])
    with pytest.raises(TaskError, match="field 'choices' in row 1 of the given rows to be a list of options"):
        load_task([{"question": "a", "choices": "b c", "answer": 0}])


def test_minus_one_is_an_answer_where_nothing_is_numbered(tmp_path: Any) -> None:
    (tmp_path / "own.json").write_text(json.dumps({"name": "minus", "examples": [["0 - 1", "-1"]]}))
    assert load_task(tmp_path / "own.json").examples == (Example("0 - 1", "-1"),)
    assert load_task([{"inputs": "0 - 1", "targets": "-1"}]).examples == (Example("0 - 1", "-1"),)
    assert load_task([{"prompt": "0 - 1", "answer": -1}]).examples == (Example("0 - 1", "-1"),)


def test_labels_of_options_go_before_their_numbers() -> None:
    choices = {"label": ["1", "2"], "text": ["zero", "one"]}
    assert load_task([{"question": "a", "choices": choices, "answer": 1}]).examples[0].answers == ("zero",)


def test_one_conversation_is_one_row(tmp_path: Any) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"messages": TALK}))
    assert load_task(tmp_path / "one.json").examples == (Example("And rain?", "Water.", history=BEFORE),)


def test_conversations_end_with_an_answer_or_are_left_out() -> None:
    parts = [
        {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "text", "text": "rain?"}]},
        TALK[4],
    ]
    with pytest.warns(UserWarning, match="1 rows of the given rows have no answer"):
        task = load_task([{"messages": parts}, {"messages": TALK[:2]}])
    assert task.examples == (Example("And rain?", "Water."),)


BIG = {
    "name": "colours", "description": "d", "keywords": ["k"], "metrics": ["m"], "task_prefix": "Name the colour.",
    "example_input_prefix": "\nThing: ", "example_output_prefix": "\nColour: ",
    "examples": [{"input": "grass", "target_scores": {"green": 1, "red": 0}},
                 {"input": "blood", "target_scores": {"green": 0, "red": 1}}],
}  # fmt: skip
INDUCTION = {"metadata": {"num_examples": 2}, "examples": {
    "1": {"input": "cat", "output": ["cats"]}, "2": {"input": "dog", "output": ["dogs"]}}}  # fmt: skip
OWN = {
    "name": "mine", "scoring": {"shown": "letters", "normalise": "token"},
    "examples": [["grass", "green", ["green", "red"]],
                 {"input": "blood", "output": "red", "options": ["green", "red"], "instruction": "Say.",
                  "history": [["user", "Hi"], ["assistant", "Hello"]]}],
}  # fmt: skip
NATURAL = {
    "Definition": ["Say the plural."], "Positive Examples": [{"input": "ox", "output": "oxen", "explanation": "e"},
                                                             {"input": "cat", "output": "cats"}],
    "Instances": [{"id": "1", "input": "cat", "output": ["cats"]}, {"id": "2", "input": "dog", "output": ["dogs"]}],
}  # fmt: skip


def test_documents(tmp_path: Any) -> None:
    def read(facts: dict[str, Any]) -> Task:
        (tmp_path / "task.json").write_text(json.dumps(facts))
        return load_task(tmp_path / "task.json")

    big = read(BIG)
    assert (big.name, big.instructions, big.labels) == ("colours", ("Name the colour.",), ("Thing", "Colour"))
    assert big.examples[1] == Example("blood", "red", ("green", "red"))
    assert read(INDUCTION).examples == (Example("cat", "cats"), Example("dog", "dogs"))
    with pytest.warns(UserWarning, match="not read: 'canary'"):
        assert read({"canary": "x", "examples": [{"input": "a", "target": "b"}]}).examples == (Example("a", "b"),)
    own = read(OWN)
    assert own.scoring == OptionScoring("token", "letters")
    assert own.examples[0] == Example("grass", "green", ("green", "red"))
    history = (("user", "Hi"), ("assistant", "Hello"))
    assert own.examples[1] == Example("blood", "red", ("green", "red"), "Say.", history)
    with pytest.raises(TaskError, match="fields of OptionScoring or GenerationScoring"):
        read({**OWN, "scoring": {"shown": "letters", "stop": []}})
    natural = read(NATURAL)
    assert natural.demonstrations == (Example("ox", "oxen"),)
    assert len(natural.examples) == 2


def test_positive_examples_stand_before_queries_and_are_none() -> None:
    task = Task("plural", [("cat", "cats"), ("dog", "dogs")], demonstrations=(Example("ox", "oxen"),))
    assert {prompt.input for prompt in task.prompts(shots=1)} == {"cat", "dog"}
    assert any("oxen" in prompt.text for prompt in task.prompts(shots=1))
    assert task.digest != Task("plural", task.examples).digest


def test_parquet(tmp_path: Any) -> None:
    pytest.importorskip("pyarrow")
    rows = [{"question": GRASS.input, "choices": [*COLOURS], "answer": 1}]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    assert load_task(tmp_path / "rows.parquet").examples == (GRASS,)
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"input": datasets.Value("string"), "output": datasets.ClassLabel(names=["bad", "good"])}
    )
    data = datasets.Dataset.from_dict({"input": ["a", "b", "c"], "output": [1, 0, -1]}, features=features)
    data.to_parquet(tmp_path / "labels.parquet")
    for source in (data, tmp_path / "labels.parquet"):
        with pytest.warns(UserWarning, match="1 rows of .* have no answer"):
            assert load_task(source).examples == (Example("a", "good"), Example("b", "bad"))


def test_semicolons_and_lists_in_tables(tmp_path: Any) -> None:
    (tmp_path / "a.csv").write_text("input;output\nhot, dry;cold\n")
    assert load_task(tmp_path / "a.csv").examples == (Example("hot, dry", "cold"),)
    pd.DataFrame([{"question": GRASS.input, "choices": [*COLOURS], "answer": 1}]).to_csv(
        tmp_path / "b.csv", index=False
    )
    assert load_task(tmp_path / "b.csv").examples == (GRASS,)
