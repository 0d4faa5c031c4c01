"""The forgetting study: does guided training learn new tasks and keep old abilities, and why?

Every method learns the same sequence of new tasks with the same steps and the same prompts. Its setting is chosen
before, on another new task and other old ones; what is reported is measured on tasks that nothing was chosen on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ivlens import RecordError, TrainingRun
from ivlens.models import HookedTransformer

from .config import Setting, StudyConfig, run_name, trial_name
from .measure import Trainer


@dataclass(frozen=True)
class Study:
    """What was measured: the base, trials by (method, setting), runs by (method, seed, stage), settings chosen."""

    base: TrainingRun
    trials: dict[tuple[str, Setting], TrainingRun]
    runs: dict[tuple[str, int, int], TrainingRun]
    chosen: dict[str, Setting]


def run_study(model: HookedTransformer, folder: Path, config: StudyConfig) -> Study:
    """Measure whatever of the study is not in ``folder`` yet, and return all of it; the model ends as the base."""
    trainer = Trainer(model, folder, config)
    try:
        return _measured(trainer, config)
    finally:
        trainer.restore()


def _measured(trainer: Trainer, config: StudyConfig) -> Study:
    base = trainer.base()
    trials = {
        (method, setting): trainer.trial(method, setting)
        for method, settings in config.settings.items() for setting in settings
    }  # fmt: skip
    chosen = choose(trials, config)
    runs = {
        (method, seed, stage): run
        for seed in config.seeds for method in config.settings
        for stage, run in enumerate(trainer.sequence(method, chosen[method], seed))
    }  # fmt: skip
    return Study(base, trials, runs, chosen)


def load_study(folder: Path, config: StudyConfig) -> Study:
    """The study's records as they were saved, without a model.

    Raises:
        RecordError: one of them is missing, broken, or made at another setting than the trials choose.
    """

    def read(name: str, *expected: object) -> TrainingRun:
        run = TrainingRun.load(folder / f"{name}.safetensors")
        made = tuple(run.provenance["key"].get("run", ()))
        if made != expected:
            raise RecordError(f"{name} to be a run of {expected}", f"one of {made}", "run the study again")
        return run

    trials = {
        (method, setting): read(trial_name(method, setting), method, *setting)
        for method, settings in config.settings.items() for setting in settings
    }  # fmt: skip
    chosen = choose(trials, config)
    runs = {
        (method, seed, stage): read(run_name(method, seed, stage), method, *chosen[method], seed, stage)
        for seed in config.seeds for method in config.settings for stage in range(len(config.new))
    }  # fmt: skip
    return Study(read("base"), trials, runs, chosen)


def choose(trials: Mapping[tuple[str, Setting], TrainingRun], config: StudyConfig) -> dict[str, Setting]:
    """Each method's setting: the one that keeps most, of those that learn ``kept`` of what plain training can.

    Where none learns that much, the one that learns most. Without plain training there is no such goal.
    """
    plain = [trials["plain", setting] for setting in config.settings.get("plain", ())]
    most = max((accuracy(trial, [config.trial_new]) for trial in plain), default=0.0)

    def worth(method: str, setting: Setting) -> tuple[bool, float, float]:
        learned = accuracy(trials[method, setting], [config.trial_new])
        kept = accuracy(trials[method, setting], config.trial_old)
        return (True, kept, learned) if learned >= config.kept * most else (False, learned, kept)

    return {
        method: max(settings, key=lambda setting: worth(method, setting))
        for method, settings in config.settings.items()
    }


def accuracy(run: TrainingRun, tasks: Sequence[str], kind: str = "accuracy") -> float:
    """Mean over tasks of a measure in a run."""
    rows = {row["ability"]: row for row in run.measured}
    return sum(rows[task][kind] for task in tasks) / len(tasks)
