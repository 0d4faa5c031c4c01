"""The command as a process: signals at any moment, streams that are closed or full, names that are not UTF-8."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ivlens import cli

pytestmark = pytest.mark.slow

# what Python does before it runs our code is its own: a line tells when that begins
BEGUN = "import sys; from ivlens.__main__ import command; print(flush=True); sys.exit(command())"
COMMAND = [sys.executable, "-c", BEGUN.replace("print(flush=True); ", "")]
ROOT = Path(__file__).parents[2]
SETTINGS = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def started(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": SETTINGS} | options
    return subprocess.Popen([*COMMAND, *words], **options)


def begun(*words: str, **options: Any) -> subprocess.Popen[bytes]:
    """A process that runs our code."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGUN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=SETTINGS, **options
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_in_its_status(number: signal.Signals, workshop: Path) -> None:
    """While modules are imported, models are loaded and heads are measured: no traceback, 128 and the signal.

    While Python itself ends, its own answer is the signal's: the same status for a shell.
    """
    rng = random.Random(int(number))
    words = ("heads", "model", "task.json", "--n-clean", "6", "--n-corrupted", "2")
    process, start = begun(*words, cwd=workshop), time.monotonic()
    assert ended(process)[0] == 0
    whole = time.monotonic() - start
    for share in (0.01, 0.2, rng.random(), rng.random()):
        process = begun(*words, cwd=workshop)
        time.sleep(share * whole)
        process.send_signal(number)
        status, _, err = ended(process)
        assert status in (128 + number, -number, 0), err
        assert "Traceback" not in err
        assert "Exception ignored" not in err


@pytest.mark.skipif(sys.platform == "win32", reason="no terminals of POSIX")
def test_a_terminal_is_told_of_the_wait_before_anything_large_is_imported(workshop: Path) -> None:
    ours, theirs = os.openpty()
    process = started("vectors", str(workshop), stderr=theirs)
    os.close(theirs)
    assert os.read(ours, 1000).startswith(b"importing torch and transformers")
    assert ended(process)[0] == 0
    os.close(ours)


def test_a_signal_that_is_switched_off_stays_off(workshop: Path) -> None:
    """As under nohup."""
    process = begun("tasks", cwd=workshop, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    assert ended(process)[0] == 0


def test_training_ended_by_sigterm_keeps_its_state(workshop: Path, tmp_path: Path) -> None:
    """The status is the signal's, and the same command resumes."""
    words = (
        "train model --task task.json --guidance plain --steps 99999 --batch-size 2 --warmup 0 --evaluate-every 99999"
    )
    process = started(*words.split(), "--out", str(tmp_path), cwd=workshop)
    log = tmp_path / "log.jsonl"
    while not (log.exists() and log.read_text().count("loss") > 2):
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.1)
    process.terminate()
    status, _, err = ended(process)
    assert (status, "Traceback" in err) == (128 + signal.SIGTERM, False)
    assert (tmp_path / "state.safetensors").exists()


def test_a_closed_pipe_is_quiet() -> None:
    """As with ``| head -1``: the reader leaves before all is written."""
    for words in (["tasks"], ["--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        process = started(*words, stdout=writing)
        os.close(writing)
        status, _, err = ended(process)
        assert (status, err) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_one_line() -> None:
    for words in (["tasks"], ["--help"]):
        with open("/dev/full", "wb") as full:
            status, _, err = ended(started(*words, stdout=full))
        assert status == 1
        assert err.startswith("ivlens: OSError")
        assert err.count("\n") == 1
    with open("/dev/full", "wb") as full:
        assert ended(started("heads", "no-such-model", "no-such-task", stderr=full))[0] == 1


def test_without_streams_nothing_is_said_and_no_file_takes_their_place(workshop: Path, tmp_path: Path) -> None:
    command = f"{' '.join(map(repr, COMMAND))} report {workshop}/stable.safetensors --out {tmp_path}/r.html >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], env=SETTINGS, check=False).returncode == 0
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_a_stream_has_no_letters_for_is_escaped(workshop: Path) -> None:
    settings = SETTINGS | {"PYTHONIOENCODING": "ascii"}
    status, out, err = ended(started("heads", "model", "é", cwd=workshop, env=settings))
    assert (status, out) == (1, "")
    assert "\\xe9" in err


@pytest.mark.skipif(sys.platform != "linux", reason="file systems that refuse names that are not UTF-8")
def test_names_that_are_not_utf8_are_named_and_the_others_go_on(
    workshop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/runs\xff"))
    folder.mkdir()
    shutil.copy(workshop / "stable.safetensors", folder)
    shutil.copy(workshop / "stable.safetensors", tmp_path / "good.safetensors")
    shutil.copy(workshop / "foreign.safetensors", tmp_path / "vector.safetensors")
    page = tmp_path / "page.html"
    assert cli.main(["report", str(tmp_path), "--out", str(page), "--title", "odd \udcff"]) == 0
    assert "runs\\udcff/stable.safetensors could not be read" in capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    assert "runs\\udcff/stable.safetensors" in text
    assert "<title>odd \\udcff</title>" in text
    assert cli.main(["vectors", str(tmp_path)]) == 0
    assert cli.main(["vectors", str(folder)]) == 0
    assert cli.main(["report", str(folder), "--out", str(page)]) == 1
    assert cli.main(["report", str(tmp_path), "--out", str(folder / "page.html")]) == 1
    assert "UTF-8" in capsys.readouterr().err.splitlines()[-1]


def test_a_warning_is_one_line_without_a_place_in_the_code(tmp_path: Path) -> None:
    table = tmp_path / "colours.csv"
    table.write_text("input,output,note\n" + "".join(f"thing {at},colour {at},x\n" for at in range(12)))
    status, _, err = ended(started("tasks", str(table)))
    assert (status, err) == (0, f"ivlens: warning: fields of {table} were not read: 'note'\n")


def test_a_warning_that_comes_again_is_shown_once() -> None:
    """What cannot work well is said beforehand, and again by the functions that do the work."""
    code = "import warnings; from ivlens.cli.streams import short_warnings\nwarnings.simplefilter('always')\n"
    code += "with short_warnings(str.upper):\n    for text in ('one', 'two', 'one'): warnings.warn(f'ivlens: {text}')"
    run = subprocess.run([sys.executable, "-c", code], env=SETTINGS, capture_output=True, text=True, check=True)
    assert run.stderr == "ivlens: warning: ONE\nivlens: warning: TWO\n"
