import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ivlens.errors import ArgumentError, TaskError
from ivlens.tasks import Example, load_task

REAL = Path(__file__).parents[3] / "shared" / "data" / "function_vectors"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip())
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6, unique_by=lambda pair: pair[0].strip())


def as_csv(pairs, header):
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([header, *pairs])
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
    expected = tuple(Example(one, other) for one, other in pairs)
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


def test_hugging_face_dataset():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list([{"q": "a", "label": 1, "idx": 0}, {"q": "b", "label": 0, "idx": 1}])
    task = load_task(data, fields=("q", "label"), name="mine", instructions="Classify.")
    assert task.examples == (Example("a", ("1",)), Example("b", ("0",)))
    assert task.instructions == ("Classify.",)
    with pytest.raises(TaskError, match="a mapping of train; pass one of its splits"):
        load_task(datasets.DatasetDict(train=data))


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
    assert load_task(rows).examples == expected
    assert load_task(written(folder, "a.json", json.dumps(rows))).examples == expected


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
        (rows, f"row {at + 1} of the rows given"),
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
        ("a.json", '{"text": "a", "label": "b"}', "fields=(..., ...)"),
        ("a.jsonl", '{"input": "a", "output": "b"}\n\n{"input": "a"\n', "line 3 of"),
        ("a.jsonl", '{"input": "a", "output": "b"}\n{"input": "a"}', "have the field 'output'; got the fields 'input'"),
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
    with pytest.raises(TaskError, match="a file that can be read at"):
        load_task(folder)
    with pytest.raises(TaskError, match="a file that can be read at"):
        load_task("a" * 5000)
    with pytest.raises(TaskError, match="a file that can be read at"):
        load_task("a\0b")


def test_unknown_name_gets_a_suggestion_and_the_list():
    with pytest.raises(TaskError, match=r"did you mean 'country-capital'\? The built-in tasks are: .*present-past"):
        load_task("country_capital")
    with pytest.raises(TaskError, match="got 'nothing-like-it-at-all'; The built-in tasks are: "):
        load_task("nothing-like-it-at-all")


@pytest.mark.skipif(not REAL.is_dir(), reason="the function-vectors files are not beside this checkout")
def test_real_function_vectors_files():
    for path in sorted(REAL.glob("*.json")):
        rows = json.loads(path.read_text(encoding="utf-8"))
        task = load_task(path)
        assert task.name == path.stem
        assert {example.input for example in task.examples} == {row["input"].strip() for row in rows}
        accepted = {example.input: example.answers for example in task.examples}
        assert all(row["output"].strip() in accepted[row["input"].strip()] for row in rows)
        assert len(task.prompts(10, instruction=False)) == 10
