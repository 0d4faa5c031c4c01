"""What is written leads somewhere: the README's links, and the API pages that its one command builds."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import ivlens

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
FOLDER = "build/api"
ROOMS = {path.stem for path in (ROOT / "ivlens").iterdir() if path.stem[0] not in "_." and path.suffix in ("", ".py")}


class Page(HTMLParser):
    """The anchors of a page, and what it links to or loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.links.add(value)


def local(link: str) -> tuple[str, str] | None:
    """The path and the anchor of a link that stays in the folder."""
    parts = urlsplit(link)
    return None if parts.scheme or parts.netloc else (unquote(parts.path), unquote(parts.fragment))


def test_every_relative_link_and_image_of_the_readme_exists() -> None:
    text = re.sub(r"^```.*?^```", "", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    links = {local(link) for link in re.findall(r"\]\(\s*<?([^)\s>]+)", text)} - {None}
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    assert any(path.endswith(".png") for path, _ in links)
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        assert path or anchor in anchors, anchor


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """The API pages, built by the README's command into a folder of the test, without a warning."""
    if importlib.util.find_spec("pdoc") is None:
        pytest.skip("pdoc, which builds the API pages, is not installed: pip install '.[docs]'")
    if shutil.which("bash") is None:
        pytest.skip("no bash to run the README's command with")
    commands = re.findall(r"^python -m pdoc .*$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(commands) == 1, "the README tells how to build the API pages, on one line"
    folder = tmp_path_factory.mktemp("api")
    assert f" {FOLDER}" in commands[0]
    command = commands[0].replace(FOLDER, str(folder))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return {file.relative_to(folder).as_posix(): Page(file) for file in folder.rglob("*.html")}


def test_the_api_pages_hold_the_public_names_and_all_rooms(pages: dict[str, Page]) -> None:
    assert {*ivlens.__all__} <= pages["ivlens.html"].anchors
    assert {f"ivlens/{room}.html" for room in ROOMS} <= {*pages}
    assert "HeadEffects.top" in pages["ivlens.html"].anchors
    assert "steering_sweep" in pages["ivlens/steering/sweep.html"].anchors


def test_every_link_inside_the_api_pages_leads_somewhere(pages: dict[str, Page]) -> None:
    followed = 0
    for name, page in pages.items():
        for path, anchor in filter(None, map(local, page.links)):
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            assert target in pages, (name, path)
            assert not anchor or anchor in pages[target].anchors, (name, path, anchor)
            followed += 1
    assert followed > 500


def test_the_folder_of_the_api_pages_is_ignored_by_git() -> None:
    assert f"{FOLDER.split('/')[0]}/" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()
