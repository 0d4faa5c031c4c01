"""The study of guidance on a tiny model: runs that are kept, what is chosen, frontiers; its tables."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ivlens
from figures.continual import choice, gentle, paired, study
from figures.continual.config import ALWAYS, METHODS, REGIMES, Run, StudyConfig, Tasks
from figures.continual.one_strength import best_strengths, default_pulls, one_strength_table, single_areas
from figures.continual.runs import Trainer, key_of, measure, read, records_file

STUDY = Path(__file__).parents[2] / "figures" / "continual"


@pytest.fixture(scope="module")
def config(tiny_hf: Any, smollm2: Any, tmp_path_factory: pytest.TempPathFactory) -> StudyConfig:
    source = tmp_path_factory.mktemp("study") / "base"
    tiny_hf("llama", vocab_size=len(smollm2.tokenizer)).save_pretrained(source)
    smollm2.tokenizer.save_pretrained(source)
    return StudyConfig(
        str(source), trial=Tasks((("hypernym",),), ("present-past",)),
        final=Tasks((("word-topic", "sentiment"), ("sentiment", "word-topic")), ("antonym", "short-answer")),
        methods=("plain", "l2", "interpolate", "freeze-middle"), regimes=("mild",), screening=("mild",), finalists=1,
        pairs=((0, 0), (1, 1), (0, 2)), n_test=3,
    )  # fmt: skip


def test_runs_are_measured_in_processes_and_found_again(config: StudyConfig, tmp_path: Path, caplog: Any) -> None:
    path, wanted = tmp_path / "runs.jsonl", [run for run in trials(config) if run.strength in (1.0, 0.3)]
    assert [run.method for run in wanted] == ["plain", "l2"]
    options = {"workers": 2, "device": "cpu", "minutes": 5.0}
    measure(wanted, path, config, **options)
    found = read(path, config)
    assert {*found} == {*wanted}
    plain = found[wanted[0]]
    assert {(row["stage"], row["role"]) for row in plain["rows"]} == {
        (stage, role) for stage in (0, 1) for role in ("new", "keep")
    }
    path.write_text(path.read_text() + '{"run": ')  # cut off by a kill
    caplog.set_level("INFO", logger="ivlens")
    measure(wanted, path, config, **options)
    assert not caplog.messages
    other = StudyConfig(config.source, config.trial, config.final, config.methods, config.regimes, n_test=4)
    assert not read(path, other)


def test_what_follows_a_choice_waits_for_all_in_front_of_it(config: StudyConfig, tmp_path: Path) -> None:
    path, wanted = tmp_path / "runs.jsonl", [run for run in trials(config) if run.strength in (1.0, 0.3)]
    seen = []

    def chosen() -> Iterator[Run | None]:
        yield from wanted
        yield None
        seen.append({*read(path, config)})

    measure(chosen(), path, config, workers=2, device="cpu", minutes=5.0)
    assert seen == [{*wanted}]


def test_a_run_that_fails_loses_no_other(config: StudyConfig, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"run": ')  # cut off by a kill
    good = [run for run in trials(config) if run.strength in (1.0, 0.3)]
    with pytest.raises(IndexError):
        measure([good[0], good[1]._replace(order=7), good[1]], path, config, workers=2, device="cpu", minutes=5.0)
    assert good[0] in read(path, config)


def test_other_errors_are_no_diverged_run(config: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ivlens.RecordError("to write a file", "No space left on device")

    trainer = Trainer(config, "cpu")
    monkeypatch.setattr("figures.continual.runs.continual", full)
    with pytest.raises(ivlens.RecordError, match="No space left"):
        trainer.line(trials(config)[0])


def test_a_diverged_run_of_lora_leaves_the_base(config: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, run = Trainer(config, "cpu"), Run("trial", "mild", "lora, rank 8", 1.0, 0, 0)
    before = {name: each.clone() for name, each in trainer.model.named_parameters()}
    monkeypatch.setattr("ivlens.training.terms.cross_entropy", lambda logits, targets: logits.sum(-1) * torch.nan)
    with pytest.warns(UserWarning, match="training stopped"):
        line = trainer.line(run)
    assert line["stopped"].startswith("expected a finite loss")
    assert all(each.equal(before[name]) for name, each in trainer.model.named_parameters())


def test_a_finished_run_is_interpolated_at_its_end(config: StudyConfig) -> None:
    trainer = Trainer(config, "cpu")
    plain, whole, none = (
        trainer.line(Run("final", "mild", method, strength, 0, 0))
        for method, strength in (("plain", 1.0), ("interpolate-end", 1.0), ("interpolate-end", 0.0))
    )
    assert whole["rows"] == plain["rows"]
    base, end = ([row["probability"] for row in none["rows"] if row["stage"] == stage] for stage in (0, 2))
    assert end == pytest.approx(base)
    assert trainer.line(Run("final", "mild", "interpolate-end", 0.5, 0, 0))["rows"] not in (plain["rows"], none["rows"])


def test_runs_of_methods_that_are_no_more_are_left_out(config: StudyConfig, tmp_path: Path) -> None:
    run = trials(config)[0]
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps({"run": run._replace(method="gone")._asdict(), "key": "x"}) + "\n")
    assert not read(path, config)


def test_the_committed_tables_are_those_of_the_records(tmp_path: Path) -> None:
    (tmp_path / "records").symlink_to(STUDY / "records")
    *_, tables = study.write(tmp_path, kind="html")
    assert tables.read_text() == (STUDY / "tables.md").read_text()


def test_nothing_is_shown_to_be_ahead_of_the_default_guidance() -> None:
    """Where much is lost: its pull is the one that the trials chose, and no frontier is above l2's by what is kept."""
    config = StudyConfig()
    lines = read(records_file(STUDY, config), config)
    (term,) = ivlens.TrainingConfig().guidance
    chosen = choice.chosen_strength(lines, "destructive", "l2")
    assert term.weights["l2"] * REGIMES["destructive"].rate == pytest.approx(chosen)
    pulls = default_pulls(config)
    assert pulls == {"destructive": 0.6, "demanding": 0.6, "long": 0.6, "mild": 0.3}
    (own,) = single_areas(lines, "trial", "l2", pulls).values()
    assert own > max(best_strengths(lines, config)["plain"].areas) + 0.05
    table = study.areas_table(lines)
    others = table[(table["regime"] == "destructive") & (table["method"] != "l2")]
    lows = others["minus l2"].str.extract(r"\[([+-][\d.]+),")[0].astype(float)
    assert len(lows) == 8
    assert (lows <= 0).all()


def test_the_table_of_minutes_has_medians_of_the_runs_on_each_machine() -> None:
    run = Run("final", "mild", "l2", 0.3, 0, 0)
    lines = {
        run._replace(seed=seed): {"seconds": 60.0 * minutes, "device": device}
        for seed, (minutes, device) in enumerate([(1, "CPU"), (2, "CPU"), (9, "CPU"), (0.5, "a GPU")])
    } | {run._replace(regime="destructive"): {"seconds": 30.0, "device": "CPU"}}
    found = study.cost_table(lines)
    assert found["regime"].tolist() == ["destructive", "mild", "mild"]
    assert found[found["regime"] == "mild"][["machine", "runs", "minutes"]].to_numpy().tolist() == [
        ["CPU", 3, "2.0"], ["a GPU", 1, "0.5"]
    ]  # fmt: skip


def test_no_run_begins_after_the_time_is_over(config: StudyConfig, tmp_path: Path) -> None:
    measure(trials(config), tmp_path / "runs.jsonl", config, workers=1, device="cpu", minutes=0.0)
    assert not read(tmp_path / "runs.jsonl", config)


def test_what_is_chosen_on_is_not_reported() -> None:
    with pytest.raises(ivlens.ArgumentError, match="different tasks to choose on and to report"):
        StudyConfig(trial=Tasks((("hypernym",),), ("antonym",)))


def test_every_method_has_as_many_tries_and_trains_in_every_regime() -> None:
    whole = StudyConfig()
    assert {len(method.strengths) for method in METHODS.values()} == {4}
    for run in trials(whole):
        training = whole.training(run)
        assert training.steps == REGIMES[run.regime].steps
        assert (training.lora is None) == (REGIMES[run.regime].rank is None and METHODS[run.method].rank is None)
    gentle = whole.training(Run("trial", "mild", "plain", 8.0, 0, 0))
    assert gentle.learning_rate == pytest.approx(1e-4 / 8)
    (pull,) = whole.training(Run("trial", "long", "l2", 0.3, 0, 0)).terms
    assert pull.weights["l2"] * REGIMES["long"].rate == pytest.approx(0.3)


def trials(config: StudyConfig) -> list[Run]:
    return [*config.trials(config.regimes, config.methods)]


def at(gained: float, retained: float) -> choice.Point:
    return choice.Point(gained, retained, 0.0, 1.0, gained, still_right=retained / 2, changes={}, right={})


@pytest.mark.parametrize(("points", "expected"), [
    ([], 0.0), ([None], 0.0), ([at(1, 1)], 1.0), ([at(0.5, 1), at(1, 0.5), at(0.4, 0.2)], 0.75),
    ([at(0.5, 0.4), at(1, 0.5)], 0.5), ([at(0.8, 0.5), None], 0.4),
])  # fmt: skip
def test_the_area_is_that_under_the_best_points(points: Any, expected: float) -> None:
    assert choice.area(points) == pytest.approx(expected)
    assert choice.area(points, "still_right") == pytest.approx(expected / 2)


def line(run: Run, learned: float, kept: float, config: StudyConfig) -> dict[str, Any]:
    values = ((0, "new", 0.0, "00"), (0, "keep", 0.8, "1110"), (1, "new", learned, "11"), (1, "keep", kept, "1011"))
    rows = [
        {"stage": stage, "role": role, "ability": role, "accuracy": value, "correct": correct}
        for stage, role, value, correct in values
    ]
    facts = {"key": key_of(run, config), "stopped": "", "seconds": 60.0, "device": "CPU"}
    return {"run": run._asdict(), "rows": rows, **facts}


def test_finalists_and_strengths_are_chosen_on_the_trials(config: StudyConfig, tmp_path: Path) -> None:
    worth = {"plain": (1.0, 0.2), "l2": (0.97, 0.6), "interpolate": (0.9, 0.7), "freeze-middle": (0.96, 0.4)}
    lines = {}
    for run in filter(None, choice.in_order(lambda: lines, config)):
        learned, kept = worth[run.method]
        weaker = METHODS[run.method].strengths.index(run.strength) / 10
        less = 0.01 * run.seed if (run.part, run.method) == ("final", "plain") else 0.0
        lines[run] = line(run, learned - weaker - less, kept + weaker / 2 - less, config)
    assert choice.finalists(lines, config) == (*ALWAYS, "freeze-middle")
    assert choice.chosen_strength(lines, "mild", "l2") == METHODS["l2"].strengths[0]
    assert choice.chosen_strength(lines, "mild", "interpolate") == METHODS["interpolate"].strengths[0]
    records = records_file(tmp_path, config)
    records.parent.mkdir()
    records.write_text("".join(json.dumps(each) + "\n" for each in lines.values()))
    *images, tables = study.write(tmp_path, config, kind="html")
    assert [image.name for image in images] == ["continual.html", "differences.html"]
    assert all(image.is_file() for image in images)
    chosen, areas, trials, points, old, minutes, rates, single, kept = tables.read_text().strip().split("\n\n")
    assert "| mild | l2 | 0.1 | 0.97 ± 0.00 | 0.97 ± 0.00 | 0.60 ± 0.00 | 0.67 ± 0.00 | 0.75 | 3 |" in chosen
    assert "+0.020 [-0.005, +0.045] | -0.410 [-0.435, -0.385]" in chosen  # of plain
    assert "| -0.070 | +0.100 |" in chosen  # of interpolation, the same in all pairs
    assert "| retained | mild | interpolate |" in areas
    # .9 of 2/3, and .97 of it with l2, the same in all pairs
    assert "| still right | mild | interpolate | 0.600 | 3 | -0.047 |  |" in areas
    assert "+0.000 [+0.000, +0.000]" not in areas
    assert trials.index("| l2 ") < trials.index("| freeze-middle ") < trials.index("| plain ")
    assert points.count("\n") == 1 + 16
    assert "| mild | l2 | -0.20 |" in old
    assert "| final | mild | CPU | 48 | 1.0 |" in minutes
    assert "| mild | 1/1 | 3 | +0.020 [-0.005, +0.045] | -0.410 [-0.435, -0.385]" in rates
    assert "| l2 | 0.727 | 0.707 | 0.674 | 0.628 | 0.1 |" in single  # .97 of .6 / .8, then .87 of .65 / .8, ...
    assert "| l2 | 0.1 | True | 0.727 | 3 | 0.727 |  | 0.647 |  |" in kept
    assert "| l2 | 0.3 | False | 0.707 | 3 | 0.707 | -0.021 | 0.580 | -0.067 |" in kept
    assert "| l2 | l2-strong | False | 0.707 | 3 | 0.707 |" in kept  # a pull of .3 in the mild regime


@pytest.mark.parametrize(("learned", "kept", "chosen"), [
    ((0.99, 0.96, 0.94, 0.5), (0.5, 0.7, 0.8, 0.8), 0.3), ((0.9, 0.94, 0.93, 0.5), (0.5, 0.6, 0.7, 0.8), 0.3),
])  # fmt: skip
def test_of_what_learns_enough_the_strength_that_keeps_most_is_chosen_else_what_learns_most(
    config: StudyConfig, learned: Any, kept: Any, chosen: float
) -> None:
    plain, l2 = ([run for run in trials(config) if run.method == name] for name in ("plain", "l2"))
    lines = {run: line(run, 1.0, 0.1, config) for run in plain}
    lines |= {run: line(run, *values, config) for run, *values in zip(l2, learned, kept, strict=True)}
    assert choice.chosen_strength(lines, "mild", "l2") == chosen


def test_one_strength_is_chosen_over_all_regimes_and_is_reported_where_it_ran_in_all(config: StudyConfig) -> None:
    """A method whose best strengths lie apart in two regimes has the one between them; nothing is chosen on finals."""
    several, best = replace(config, regimes=("destructive", "mild")), {"destructive": 2, "mild": 0}
    lines = {
        run: line(run, 1 - 0.1 * abs(METHODS["l2"].strengths.index(run.strength) - best[run.regime]) ** 2, 0.8, several)
        for run in several.trials(several.regimes, ["l2"])
    }
    assert best_strengths({run: each for run, each in lines.items() if run.regime == "mild"}, several) == {}
    found = best_strengths(lines, several)
    assert found["l2"].strength == METHODS["l2"].strengths[1]
    finals = {run: line(run, 0.5, 0.4, several) for run in several.finals(several.regimes, ["l2"], several.pairs)}
    rows = one_strength_table(lines | finals, several, found)
    assert rows[["strength", "chosen", "pairs", "retained"]].to_numpy().tolist() == [
        [each, each == "0.3", 3, "0.250"] for each in ("0.1", "0.3", "0.6", "0.8", "l2-strong")
    ]
    one_pair_less = {run: each for run, each in finals.items() if run[1:2] + run[4:] != ("mild", 1, 1)}
    assert one_strength_table(lines | one_pair_less, several, found).empty


def test_what_adds_to_l2_is_compared_at_the_same_pull(config: StudyConfig) -> None:
    lines = {}
    for run in config.finals(["mild"], ["l2", "rehearsal + l2"], config.pairs):
        more = 0.1 + 0.01 * run.seed if run.method != "l2" else 0.0
        if run.strength != 0.8 or run.seed:  # of the strongest pull there are too few pairs
            lines[run] = line(run, run.strength, 0.5 + more, config)
    frame = study.same_pull_table(lines).set_index("pull")
    assert frame.index.tolist() == [0.1, 0.3, 0.6]
    assert frame.loc[0.3, "kept, minus l2"] == "+0.110 [+0.085, +0.135]"
    assert frame["learned, minus l2"].tolist() == ["+0.000"] * 3  # the same in all pairs: no interval


def test_runs_that_were_measured_again_are_compared_with_the_first_ones(config: StudyConfig) -> None:
    first = {run: line(run, 0.9, 0.5, config) for run in config.finals(["mild"], ["l2"], config.pairs)}
    again = {run: line(run, 0.9, 0.6 + 0.01 * run.seed, config) for run in first if run.strength == 0.3}
    (row,) = study.again_table(first, again).to_dict("records")
    assert (row["strength"], row["pairs"], row["learned, again minus first"]) == (0.3, 3, "+0.000")
    assert row["kept, again minus first"] == "+0.110 [+0.085, +0.135]"
    assert study.again_table(first, {}).empty


def test_old_examples_are_tried_on_and_never_among_the_finalists(config: StudyConfig) -> None:
    names = (*ALWAYS, "replay", "freeze-middle", "kl")
    several = replace(config, methods=names, regimes=("destructive", "mild"), screening=("destructive",), halved=2)
    worth = dict(zip(names, (0.5, 0.9, 0.4, 0.8, 0.7, 0.6), strict=True))
    lines: dict[Run, Any] = {}
    for run in filter(None, choice.in_order(lambda: lines, several)):
        lines[run] = line(run, 1.0, 0.8 * worth[run.method], several)
    assert choice.halved(lines, several) == (*ALWAYS, "replay", "freeze-middle")
    assert choice.finalists(lines, several) == (*ALWAYS, "freeze-middle")


def test_without_finals_the_command_is_named(config: StudyConfig, tmp_path: Path) -> None:
    with pytest.raises(ivlens.RecordError, match=r"python -m figures.continual"):
        study.write(tmp_path, config)


def test_the_command_runs_the_regimes_that_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from figures.continual import __main__ as command

    asked: list[tuple[set[Run], StudyConfig]] = []
    monkeypatch.setattr(command, "measure", lambda runs, out, config, **options: asked.append(({*runs}, config)))
    words = ["study", "--out", str(tmp_path / "runs.jsonl")]
    more = ["--model", "some/model", "--rates", "0.1", "--precision", "bfloat16", "--regimes", "long"]
    monkeypatch.setattr("sys.argv", words + more)
    command.main()
    (runs, config), *_ = asked
    assert {run.regime for run in runs if run} == {"long"}
    assert {run.method for run in runs if run and run.part == "trial"} == {*METHODS} - {"lora, rank 8"}
    found = config.training(next(run for run in runs if run and run.method == "l2"))
    assert (found.precision, found.learning_rate) == ("bfloat16", pytest.approx(0.1 * REGIMES["long"].rate))
    monkeypatch.setattr("sys.argv", words)
    command.main()
    assert asked[-1][1] == StudyConfig()
    assert StudyConfig(regimes=("mild", "demanding")).screened == ("demanding",)


def test_regimes_with_lora_may_have_rates_of_their_own() -> None:
    config = StudyConfig(rates=0.1, lora_rates=0.5, regimes=("long", "mild"))
    runs = config.trials(config.regimes, ["l2", "o-lora"])
    found = {(run.regime, run.method): config.training(run).learning_rate for run in runs}
    long, mild = 0.5 * 2e-3, 0.1 * 1e-4
    ten_times = 10 * 0.5 * 1e-4
    assert found == {
        ("long", "l2"): pytest.approx(long), ("long", "o-lora"): pytest.approx(long),
        ("mild", "l2"): pytest.approx(mild), ("mild", "o-lora"): pytest.approx(ten_times),
    }  # fmt: skip
    with pytest.raises(ivlens.ArgumentError, match="lora_rates above 0"):
        StudyConfig(lora_rates=0.0)


def test_equal_differences_of_few_pairs_have_no_interval() -> None:
    own, l2 = {(0, seed): 0.7 for seed in range(3)}, {(0, seed): 0.725 for seed in range(3)}
    assert paired.in_words(paired.difference(own, l2)) == "-0.025"
    assert "[" in paired.in_words(paired.difference(own | {(0, 2): 0.71}, l2))


def test_the_default_at_a_gentle_rate_is_measured_once_and_the_base_comes_back(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {name: replace(each, steps=2, warmup=0, evaluate_every=2) for name, each in gentle.TRAINED.items()}
    monkeypatch.setattr(gentle, "TRAINED", short)
    (tmp_path / "records").mkdir()
    gentle.measure(tmp_path / gentle.RECORD, gentle.settings(), config)
    table = gentle.gentle_table(gentle.read_gentle(tmp_path, config))
    assert table.groupby("trained", sort=False)["guidance"].agg(list).to_dict() == {
        "all weights": ["plain", "l2-strong", "a pull of 0.3"],
        "LoRA": ["plain", "l2-strong", "l2-strong, lora=1", "a pull of 0.3"],
    }
    assert table["keep, before"].nunique() == 1
    assert gentle.read_gentle(tmp_path, replace(config, source="another")) == {}
    monkeypatch.setattr(gentle, "fine_tune", lambda *_, **__: pytest.fail("measured again"))
    gentle.measure(tmp_path / gentle.RECORD, gentle.settings(), config)
    pulls = {each: each.training.terms[0].weights["l2"] for each in gentle.settings() if each.guidance != "plain"}
    rates = {each: each.training.learning_rate for each in pulls}
    assert {f"{each.name}": round(pulls[each] * rates[each], 4) for each in pulls} == {
        "all weights, l2-strong": 0.0375, "all weights, a pull of 0.3": 0.3, "LoRA, l2-strong": 0.06,
        "LoRA, l2-strong, lora=1": 0.6, "LoRA, a pull of 0.3": 0.3,
    }  # fmt: skip
