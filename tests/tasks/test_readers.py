import csv
import gzip
import io
import json
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivlens.errors import ArgumentError, TaskError
from ivlens.tasks import Example, load_task

KEYS = ("examples", "Instances")  # in an object these two say that it is a task's file
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text.strip() and text.strip() not in KEYS
)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6, unique_by=lambda pair: pair[0].strip())


FILL = [("a first filler", "one"), ("another filler", "two")]


def as_csv(pairs, header, delimiter=","):
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL, delimiter=delimiter).writerows([header, *pairs])
    return out.getvalue()


def dicts(pairs, asked="input", answered="output"):
    return [{asked: one, answered: other} for one, other in pairs]


def own(pairs):
    return {"name": "mine", "kind": "lexical", "instructions": ["Do."], "labels": ["A", "B"], "cloze": "{input} is",
            "examples": [[one, [other]] for one, other in pairs]}  # fmt: skip


def natural(pairs):
    instances = [{"input": one, "output": [other]} for one, other in pairs]
    return {"Definition": ["Do."], "Positive Examples": [], "Instances": instances}


WRITERS = {
    "own.json": lambda pairs: json.dumps(own(pairs)),
    "function_vectors.json": lambda pairs: json.dumps(dicts(pairs), ensure_ascii=False),
    "natural.json": lambda pairs: json.dumps(natural(pairs), ensure_ascii=False),
    "trace.json": lambda pairs: json.dumps(dicts(pairs, "prompt", "answer"), indent=2),
    "lines.jsonl": lambda pairs: "\n".join(json.dumps(row, ensure_ascii=False) for row in dicts(pairs)),
    "lines.json": lambda pairs: "\n\n".join(json.dumps(row) for row in dicts(pairs, "question", "answer")) + "\n",
    "table.csv": lambda pairs: as_csv(pairs, ["input", "output"]),
    "table.txt": lambda pairs: as_csv(pairs, ["question", "answer"]),
    "pairs.json": lambda pairs: json.dumps(pairs),
    "table.tsv": lambda pairs: as_csv(pairs, ["input", "output"], "\t"),
    "tabs.txt": lambda pairs: as_csv(pairs, ["question", "answer"], "\t"),
    "crlf.jsonl": lambda pairs: "\r\n".join(json.dumps(row) for row in dicts(pairs)),
    "mapping.json": lambda pairs: json.dumps(dict([*pairs, *FILL]), ensure_ascii=False),
    "answers.json": lambda pairs: json.dumps({one: [other] for one, other in [*pairs, *FILL]}),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tasks")


def written(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("name", WRITERS)
@given(pairs=PAIRS)
def test_any_text_survives_every_format(folder, name, pairs):
    expected = tuple(Example(one, other) for one, other in pairs + FILL * (name in ("mapping.json", "answers.json")))
    path = written(folder, name, WRITERS[name](pairs))
    assert load_task(path).examples == expected
    assert load_task(str(path)).source == str(path)
    marked = written(folder, name, WRITERS[name](pairs), "utf-8-sig")
    assert load_task(marked).examples == expected


@given(pairs=PAIRS)
def test_rows_given_as_they_are(pairs):
    expected = tuple(Example(one, other) for one, other in pairs)
    assert load_task(dicts(pairs), name="mine").examples == expected
    assert load_task(iter(dicts(pairs, "x", "y")), fields=("x", "y")).examples == expected
    assert load_task(pairs).examples == expected
    assert load_task(pd.DataFrame(dicts(pairs))).examples == expected
    assert load_task(dict(pairs + FILL)).examples == expected + tuple(Example(*pair) for pair in FILL)


def test_hugging_face_dataset():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"q": "a", "label": 1, "idx": 0}, {"q": "b", "label": 0, "idx": 1}])
    with pytest.warns(UserWarning, match="fields of the given rows were not read: 'idx'"):
        task = load_task(data, fields=("q", "label"), name="mine", instructions="Classify.")
    assert task.examples == (Example("a", ("1",)), Example("b", ("0",)))
    assert task.instructions == ("Classify.",)
    with pytest.raises(TaskError, match="a mapping of train; pass one of its splits"):
        load_task(datasets.DatasetDict(train=data))


@pytest.mark.parametrize("listed", [False, True])
def test_class_labels_are_names(listed):
    datasets = pytest.importorskip("datasets")
    label = datasets.ClassLabel(names=["negative", "positive"])
    features = datasets.Features(
        {"input": datasets.Value("string"), "output": datasets.List(label) if listed else label}
    )

    def of(numbers):
        cells = [[number] for number in numbers] if listed else numbers
        return datasets.Dataset.from_dict({"input": ["bad", "good"], "output": cells}, features=features)

    for data in (of([0, 1]), of([0, 1]).to_iterable_dataset()):
        assert load_task(data).examples == (Example("bad", ("negative",)), Example("good", ("positive",)))
    if listed:
        with pytest.raises(TaskError, match="field 'output' in row 2 of the given rows to be one of 2 classes; got -1"):
            load_task(of([0, -1]))
    else:  # -1 is how a test set hides a label
        with pytest.warns(UserWarning, match="1 rows of the given rows have no answer and were left out"):
            assert load_task(of([0, -1])).examples == (Example("bad", ("negative",)),)
    with pytest.raises(TaskError, match="field 'output' in row 1 of the given rows to be a text; got None"):
        load_task(of([None, 1]))
    other = of([0, -1]).add_column("answer", ["a", "b"])
    with pytest.warns(UserWarning, match="not read: 'output'"):
        assert load_task(other, fields=("input", "answer")).examples[1] == Example("good", ("b",))


def test_frames():
    labels = pd.Series(["yes", "no"], dtype="category")
    frame = pd.DataFrame({"question": ["a", "b"], "answer": labels, "note": ["x", None]})
    with pytest.warns(UserWarning, match="not read: 'note'"):
        assert load_task(frame).examples == (Example("a", ("yes",)), Example("b", ("no",)))
    for missing in (None, float("nan"), pd.NA, pd.NaT):
        with pytest.raises(TaskError, match="field 'output' in row 2 of the given rows to be a text"):
            load_task(pd.DataFrame({"input": ["a", "b"], "output": ["c", missing]}))
    with pytest.raises(TaskError, match="name every column once; got 'input', 'output', 'input'"):
        load_task(pd.DataFrame([["a", "b", "c"]], columns=["input", "output", "input"]))
    with pytest.raises(TaskError, match=r"columns input, output, id; pass rows, or a pandas\.DataFrame"):
        load_task({"input": ["a"], "output": ["b"], "id": ["c"]})


def test_an_instruction_that_all_rows_give_is_the_tasks(folder):
    rows = [{"instruction": "Translate.", **row} for row in dicts([("dog", "chien"), ("cat", "chat")])]
    assert load_task(rows).instructions == ("Translate.",)
    assert load_task(written(folder, "a.csv", "instruction,input,output\nDo.,a,b\nDo.,c,d\n")).instructions == ("Do.",)
    assert load_task(rows, instructions="Say it.").instructions == ("Say it.",)
    with pytest.raises(TaskError, match="to say its instruction once"):
        load_task(written(folder, "a.json", json.dumps({"instructions": ["Do."], "examples": rows})))
    blank = [{"instruction": "", "input": "a", "output": "b"}]
    assert load_task(blank).instructions == ()


OTHERS = [
    {"instruction": "Name its young.", "input": "dog", "output": "puppy"},
    {"input": "dog", "output": "puppy"},
    {"instruction": None, "input": "dog", "output": "puppy"},
]


@pytest.mark.parametrize("other", OTHERS)
def test_rows_keep_their_own_instruction(other):
    rows = [{"instruction": "Translate.", "input": "dog", "output": "chien"}, other]
    kept = (
        Example("dog", "chien", instruction="Translate."),
        Example("dog", "puppy", instruction=other.get("instruction")),
    )
    if "instruction" in other:
        assert load_task(rows).examples == kept
    else:
        with pytest.raises(TaskError, match="row 2 of the given rows to have the field 'instruction'"):
            load_task(rows)
    with pytest.warns(UserWarning, match="not read|all accepted") as told:
        assert load_task(rows, fields=("input", "output")).examples == (Example("dog", ("chien", "puppy")),)
    assert [str(each.message) for each in told] == [
        "fields of the given rows were not read: 'instruction'",
        "inputs of the given rows have several rows, whose answers are all accepted: 'dog'",
    ]


@pytest.mark.parametrize("column", ["context", "choices", "Options", "passage", "question"])
def test_rows_with_more_to_a_prompt_are_refused(folder, column):
    rows = [{"input": "2 + 2", "output": 1, column: ["3", "4"]}]
    for source in (rows, written(folder, "a.json", json.dumps(rows)), pd.DataFrame(rows)):
        with pytest.raises(TaskError, match=f"all that an answer depends on; got {column!r} beside it"):
            load_task(source)
        with pytest.warns(UserWarning, match=f"were not read: {column!r}"):
            load_task(source, fields=("input", "output"))
    assert load_task([{"input": "2 + 2", "output": 4, column: nothing} for nothing in ("", None, [], float("nan"))])


def test_columns_that_are_not_read_are_named(folder):
    rows = [{"input": "a", "output": "b", "subject": "x"}, {"input": "c", "output": "d", "idx": 0}]
    with pytest.warns(UserWarning, match="given rows were not read: 'subject', 'idx'") as caught:
        load_task(rows)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=r"table\.csv were not read: '', 'more'"):
        load_task(written(folder, "table.csv", ",input,output,more\n0,a,b,c\n"))
    with pytest.warns(UserWarning, match=r"mine\.json were not read: 'metadata'"):
        load_task(written(folder, "mine.json", json.dumps({"metadata": {}, **own([("a", "b")])})))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        instances = {"Instances": [{"id": "1", "input": "a", "output": ["b"]}], "Source": ["x"]}
        load_task(written(folder, "natural.json", json.dumps(instances)))


def test_mappings_are_many_examples(folder):
    words = {"water": "agua", "dog": "perro", "question": "pregunta", "answer": "respuesta"}
    path = written(folder, "en_es.json", json.dumps(words))
    for source in (path, words):
        with pytest.warns(UserWarning, match="was read as 4 pairs"):
            task = load_task(source)
        assert [(example.input, example.answers[0]) for example in task.examples] == [*words.items()]
    several = load_task({"hot": ["cold", "cool"], "big": ["small"], "up": ["down"]})
    assert several.examples[0] == Example("hot", ("cold", "cool"))
    one_row = load_task(written(folder, "row.jsonl", json.dumps({"input": "a", "output": "b", "id": "c"})))
    assert one_row.examples == (Example("a", ("b",)),)
    with pytest.raises(TaskError, match="entry 'dog' of"):
        load_task({"cat": "gato", "dog": " ", "sun": "sol"})


@pytest.mark.parametrize("twin", ["New  York", "New\u00a0York", "New\nYork"])
def test_inputs_that_read_the_same_are_named(twin):
    with pytest.warns(UserWarning, match="read the same as others, which may be in another split: 'New.*York'"):
        assert len(load_task([("New York", "a"), (twin, "a")]).examples) == 2
    with pytest.warns(UserWarning, match="read the same as others"):
        load_task([("caf\u00e9", "a"), ("cafe\u0301", "a")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_task([("polish", "a"), ("Polish", "b")])


def test_errors_name_the_first_few(folder):
    numbered = {"metadata": {}, "examples": {str(n): [str(n), "x"] for n in range(9999)}}
    for payload, said in (
        (numbered, "a mapping of 0, 1, 2, 3 and 9,995 more"),
        ({f"word{n}": None for n in range(3000)}, "'word3' and 2,996 more"),
        ([{f"word{n}": "x" for n in range(3000)}], "'word3' and 2,996 more"),
        ([{"input": "x" * 100_000, "output": ["y" * 100_000, None]}], "field 'output' in row 1"),
        ([{"x" * 100_000: 1}], "to have the fields input/output"),
        ([["x" * 100_000]], "row 1"),
    ):
        with pytest.raises(TaskError) as caught:
            load_task(written(folder, "long.json", json.dumps(payload)))
        assert said in str(caught.value)
        assert len(str(caught.value)) < 500
    with pytest.raises(TaskError) as caught:
        load_task([("a", 10**5000)])
    assert "field 'output' in row 1 of the given rows to be a text or a number" in str(caught.value)


def test_quotes_after_a_space_are_quotes(folder):
    path = written(folder, "spaced.csv", 'input, output\n"a", "b, c"\nd, "e"\n')
    assert load_task(path).examples == (Example("a", ("b, c",)), Example("d", ("e",)))


def test_a_field_of_100000_characters(folder):
    long = "x" * 100_000
    for name in ("table.csv", "table.tsv", "lines.jsonl", "pairs.json"):
        assert load_task(written(folder, name, WRITERS[name]([(long, "b"), ("a", "c")]))).examples[0].input == long


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (gzip.compress(b"input,output\na,b\n", mtime=0)[:-9], "to be a whole gzip file"),
        (b"PK\x03\x04", "got a zip file"),
        (b"PAR1", "to be a Parquet file that can be read"),
        ("input,output\na,b".encode("utf-16"), "UTF-8; got invalid start byte at byte 0"),
    ],
)
def test_packed_files_are_named(folder, data, said):
    path = folder / "packed.csv"
    path.write_bytes(data)
    with pytest.raises(TaskError) as caught:
        load_task(path)
    assert said in str(caught.value)


def test_files_packed_with_gzip(folder):
    path = folder / "table.csv.gz"
    path.write_bytes(gzip.compress(b"input,output\na,b\n", mtime=0))
    task = load_task(path)
    assert (task.name, task.examples) == ("table", (Example("a", "b"),))


def test_what_the_files_say_of_the_task(folder):
    task = load_task(written(folder, "a.json", json.dumps(own([("a", "b")]))))
    assert (task.name, task.kind, task.labels, task.cloze) == ("mine", "lexical", ("A", "B"), "{input} is")
    assert load_task(written(folder, "task1.json", json.dumps(natural([("a", "b")])))).instructions == ("Do.",)
    single = {**natural([("a", "b")]), "Definition": "Do it."}
    assert load_task(written(folder, "task1.json", json.dumps(single))).instructions == ("Do it.",)
    table = load_task(written(folder, "table.csv", "input,output\na,b\n"))
    assert (table.name, table.instructions, table.labels) == ("table", (), ("Input", "Output"))


def test_overrides(folder):
    path = written(folder, "a.json", json.dumps(own([("a", "b")])))
    task = load_task(path, name="n", instructions=["I.", "J."], labels=("X", "Y"), cloze="{input}:")
    assert (task.name, task.instructions, task.labels, task.cloze) == ("n", ("I.", "J."), ("X", "Y"), "{input}:")
    renamed = load_task("country-capital", name="capitals", labels=("Nation", "Seat"))
    assert (renamed.name, renamed.labels, renamed.source) == ("capitals", ("Nation", "Seat"), "ivlens")
    with pytest.raises(TaskError, match="the labels of task 'mine'"):
        load_task(path, labels=("X", "X"))
    with pytest.raises(ArgumentError, match="the names of two columns"):
        load_task(path, fields=("X", "Y", "Z"))


def test_answers_to_one_input_are_merged_and_numbers_are_text(folder):
    rows = [
        {"input": "a", "output": "b"},
        {"input": "a ", "output": ["c", "b"]},
        {"input": "a", "output": "b"},
        {"input": 2, "output": [4, 4.5]},
    ]
    expected = (Example("a", ("b", "c")), Example("2", ("4", "4.5")))
    for source in (rows, written(folder, "a.json", json.dumps(rows))):
        with pytest.warns(UserWarning, match="have several rows, whose answers are all accepted: 'a'"):
            assert load_task(source).examples == expected


def test_trace_rows_without_an_answer_are_counted(folder):
    rows = dicts([("a", "b"), ("c", ""), ("d", " "), ("e", "f")], "prompt", "answer")
    path = written(folder, "train.json", json.dumps(rows))
    with pytest.warns(UserWarning, match="2 rows of .*train.json have no answer") as caught:
        assert [example.input for example in load_task(path).examples] == ["a", "e"]
    assert caught[0].filename == __file__
    with pytest.raises(TaskError, match="one example or more; got 1 rows, none with an answer"):
        load_task(dicts([("a", "")], "prompt", "answer"))


MALFORMED = st.sampled_from(
    [None, True, "", "  ", [], [""], [None], ["a", {}], {}, {"a": 1}, float("nan"), float("inf"), [["a"]], "\ud800"]
)


@given(pairs=PAIRS, data=st.data(), bad=MALFORMED, field=st.sampled_from(["input", "output"]))
def test_a_malformed_row_is_named(folder, pairs, data, bad, field):
    rows = dicts(pairs)
    at = data.draw(st.integers(0, len(rows) - 1))
    rows[at][field] = bad
    path = written(folder, "rows.json", json.dumps(rows))
    lines = written(folder, "rows.jsonl", "\n".join(map(json.dumps, [rows[0], *rows])))
    for source, place in (
        (rows, f"row {at + 1} of the given rows"),
        (path, f"row {at + 1} of {path}"),
        (lines, f"line {at + 2 if at else 1} of {lines}"),
    ):
        with pytest.raises(TaskError) as caught:
            load_task(source)
        assert f"field {field!r} in {place} " in str(caught.value)


SHAPES = st.sampled_from([3, None, "text", ["a"], ["a", "b", "c"], [], {"other": "a"}, {}])


@given(pairs=PAIRS, data=st.data(), bad=SHAPES)
def test_a_row_of_another_shape_is_named(folder, pairs, data, bad):
    rows = dicts(pairs)
    at = data.draw(st.integers(0, len(rows) - 1))
    rows[at] = bad
    path = written(folder, "rows.json", json.dumps({"name": "mine", "examples": rows}))
    with pytest.raises(TaskError) as caught:
        load_task(path)
    assert f"row {at + 1} of field 'examples' of {path} to " in str(caught.value)


JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["input", "output", "examples", "Instances", "Definition", "labels"]), inner)
    ),
    max_leaves=12,
)


@given(junk=JUNK)
def test_any_json_is_a_task_or_a_task_error(folder, junk):
    try:
        task = load_task(written(folder, "junk.json", json.dumps(junk)))
    except TaskError:
        return
    assert task.examples


HUGE = st.sampled_from([4000, 5000]).map(lambda digits: 10**digits)
NUMBERS = [np.float32("nan"), np.float32(0.1), np.int64(3), np.bool_(True), pd.NA]
CELLS = st.one_of(
    JUNK, st.text(), st.binary(max_size=3), st.fractions(), st.decimals(), st.complex_numbers(), st.dates(),
    st.sampled_from([*NUMBERS, object(), np.zeros(3)]), HUGE, HUGE.map(Fraction),
)  # fmt: skip
KNOWN = st.sampled_from(["input", "output", "question", "answer", "instruction", "context", "id", 3, None])
NAMES = KNOWN | HUGE | st.text(max_size=3)
ROWS = st.lists(st.dictionaries(NAMES, CELLS, max_size=4) | st.tuples(CELLS, CELLS) | CELLS, max_size=4)
OBJECTS = ROWS | ROWS.map(iter) | st.dictionaries(NAMES, CELLS, max_size=5) | CELLS


@given(rows=OBJECTS.filter(lambda source: not isinstance(source, str)))
@settings(max_examples=400)
def test_any_object_is_a_task_or_a_task_error(rows):
    try:
        task = load_task(rows)
    except TaskError:
        return
    assert task.prompts(1, shots=0, instruction=False)


@given(columns=st.dictionaries(NAMES, st.lists(CELLS, min_size=2, max_size=2), max_size=4))
def test_any_frame_is_a_task_or_a_task_error(columns):
    try:
        task = load_task(pd.DataFrame(columns))
    except TaskError:
        return
    assert task.examples


@given(junk=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "txt"])
def test_any_bytes_are_a_task_or_a_task_error(folder, junk, suffix):
    path = folder / f"junk.{suffix}"
    path.write_bytes(b"input,output\n" + junk if suffix == "csv" else junk)
    try:
        task = load_task(path)
    except TaskError:
        return
    assert task.examples


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "", "to hold a task; got an empty file"),
        ("a.csv", " \n", "to hold a task; got an empty file"),
        ("a.json", "input,output\na,b", "to be JSON; got Expecting value: line 1 column 1"),
        ("a.json", '[{"input": "a",}]', "to be JSON"),
        ("a.json", "[" * 100_000, "to be JSON"),
        ("a.json", "3", "to hold a list of rows; got 3"),
        ("a.json", "[]", "to hold one example or more"),
        ("a.json", '{"Instances": {"a": 1}}', "field 'Instances' of"),
        ("a.json", '{"examples": 3}', "field 'examples' of"),
        ("a.json", '{"text": "a", "label": "b"}', "fields=('text', 'label')"),
        ("a.jsonl", '{"input": "a", "output": "b"}\n\n{"input": "a"\n', "line 3 of"),
        ("a.jsonl", '{"input": "a", "output": "b"}\n{"input": "a"}', "have the field 'output'; got the fields 'input'"),
        ("a.json", '[{"input": "a", "output": "b", "input": "c"}]', "'input' twice in one object"),
        ("a.json", '{"a": "b", "c": "d", "e": "f", "a": "g"}', "'a' twice in one object"),
        ("a.json", '[{"input": "a", "output": NaN}]', "field 'output' in row 1 of"),
        ("a.json", '[{"input": "a", "output": 1e999}]', "field 'output' in row 1 of"),
        ("a.json", '[{"input": "a", "output": 1' + "0" * 5000 + "}]", "to be JSON"),
        ("a.tsv", "input\toutput\na\n", "line 2 of"),
        ("a.csv", "input\toutput\na\tb\n", "the fields 'input\\toutput'"),
        ("a.csv", "input,output\na,b,c\n", "line 2 of"),
        ("a.csv", "input,output\n", "to hold one example or more"),
        ("a.csv", "text,label\na,b\n", "line 2 of"),
        ("a.csv", "input,input\na,b\n", "to name every column once"),
        ("a.csv", 'input,output\n"a\nb",c\nd\n', "line 4 of"),
        ("a.csv", 'input,output\na,b\n"c,d\n', "line 3 of"),
        ("a.csv", 'input,output\n\na,b\n"c\nd",\n', "field 'output' in line 4 of"),
    ],
)
def test_what_a_file_lacks_is_said(folder, name, text, said):
    path = written(folder, name, text)
    with pytest.raises(TaskError) as caught:
        load_task(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_files_that_cannot_be_read(folder):
    with pytest.raises(TaskError, match="UTF-8; got invalid continuation byte at byte 1"):
        load_task(written(folder, "latin.csv", "aéb", "latin-1"))
    (folder / "none").mkdir()
    with pytest.raises(TaskError, match="a file that can be read at"):
        load_task(folder / "none")
    with pytest.raises(TaskError, match="a file that can be read at"):
        load_task("a" * 5000)
    with pytest.raises(TaskError, match="a file that can be read at"):
        load_task("a\0b")
    with pytest.raises(TaskError, match="/dev/zero to be a file; got a device"):
        load_task("/dev/zero")


@pytest.mark.parametrize("source", ["~no-such-user/task.json", "~", "", ".", "task\ud800.json", "x" * 300, "/dev/full"])
def test_paths_that_are_no_files(source):
    with pytest.raises(TaskError) as caught:
        load_task(source)
    assert len(str(caught.value)) < 800


def test_unknown_name_gets_a_suggestion_and_the_list():
    with pytest.raises(TaskError, match=r"did you mean 'country-capital'\? The built-in tasks are: .*present-past"):
        load_task("country_capital")
    with pytest.raises(TaskError, match="got 'nothing-like-it-at-all'; The built-in tasks are: "):
        load_task("nothing-like-it-at-all")
