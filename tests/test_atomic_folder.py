"""Folders written as a whole: killed at any moment, the old content or the new is there."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ivlens import files
from ivlens.files import atomic_folder, in_use, remove_abandoned

WRITING = """
import sys
from pathlib import Path
from ivlens import files
if sys.argv[2] == "renames":
    files._exchange = lambda *_: False
print("ready", flush=True)
for number in range(1, 100_000):
    with files.atomic_folder(Path(sys.argv[1])) as folder:
        for name in "abc":
            (folder / name).write_text(str(number))
"""


def fill(target: Path, text: str) -> None:
    with atomic_folder(target) as folder:
        for name in "abc":
            (folder / name).write_text(text)


def content(target: Path) -> list[str]:
    return [path.read_text() for path in sorted(target.iterdir())]


@pytest.fixture(params=["exchange", "renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "renames":
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    return request.param


@pytest.mark.usefixtures("way")
def test_a_folder_is_made_and_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    for text in ("old", "new"):
        fill(target, text)
        assert content(target) == [text] * 3
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.usefixtures("way")
def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "target"
    fill(target, "old")
    with pytest.raises(UnicodeEncodeError):
        fill(target, "\ud800")  # which no file can hold
    assert content(target) == ["old"] * 3
    assert list(tmp_path.iterdir()) == [target]


def test_killed_at_random_moments_the_old_folder_or_the_new_is_there(tmp_path: Path, way: str) -> None:
    target, chance = tmp_path / "target", random.Random(time.time_ns())
    fill(target, "0")
    for _ in range(10):
        arguments = [str(target), way]
        process = subprocess.Popen([sys.executable, "-c", WRITING, *arguments], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if way == "exchange":
            assert len(set(content(target))) == 1  # before the next call, too
        with pytest.raises(KeyboardInterrupt), atomic_folder(target):
            raise KeyboardInterrupt
        assert len(content(target)) == 3
        assert len(set(content(target))) == 1
        assert list(tmp_path.iterdir()) == [target]


def test_a_kill_between_two_renames_is_undone_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    fill(target, "old")
    target.rename(files._aside(target))
    with pytest.raises(KeyboardInterrupt), atomic_folder(target):
        raise KeyboardInterrupt
    assert content(target) == ["old"] * 3


def test_only_folders_that_nobody_uses_are_removed(tmp_path: Path) -> None:
    for name in ("used", "left"):
        (tmp_path / name).mkdir()
    with in_use(tmp_path / "used"):
        remove_abandoned([tmp_path / "used", tmp_path / "left", tmp_path / "none"])
        assert [path.name for path in tmp_path.iterdir()] == ["used"]
    remove_abandoned([tmp_path / "used"])
    assert not list(tmp_path.iterdir())
