"""What is written holds: the site builds, links lead somewhere, snippets run, samples load, the README is short."""

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import ivlens as iv
from ivlens.cli.parser import build_parser
from ivlens.cli.training import training_config
from ivlens.cli.verbs import VERBS
from ivlens.models import HookedTransformer
from ivlens.records.columns import FRAMES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.name[0] != "_")
LONGEST = 150  # lines of the README
FIRST = [
    "python -m pip install -c constraints.txt . && ivlens demo",
    "python -m pip install -c constraints.txt '.[test]' && python -m pytest",
]
FENCED = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
SAMPLE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```', re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"\d+\.\d+")
# Snippets of the guide run on a small random model in a folder, and train for a few steps.
SMALLER = {'"smollm2"': '"model"', "steps=100": "steps=2", "evaluate_every=50": "evaluate_every=1",
           "lost.prompts(40)": "lost.prompts(3), only_forgotten=False"}  # fmt: skip
SHAPE = {"num_hidden_layers": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024}


class Page(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value and not value.startswith("data:"):
                self.links.add(value)
                if tag in ("script", "img", "iframe") or (tag == "link" and dict(attrs).get("rel") != "canonical"):
                    self.loads.add(value)


def local(link: str) -> tuple[str, str] | None:
    """The path and the anchor of a link that stays in the folder."""
    parts = urlsplit(link)
    return None if parts.scheme or parts.netloc else (unquote(parts.path), unquote(parts.fragment))


def snippets(path: Path, language: str) -> list[str]:
    return [code for kind, code in FENCED.findall(path.read_text(encoding="utf-8")) if kind == language]


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_the_readme_is_read_in_two_minutes_and_begins_with_two_commands() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= LONGEST
    assert snippets(README, "sh")[0].splitlines() == FIRST


def commands(path: Path) -> list[list[str]]:
    """The words of each command line of ivlens that is written out, those that "..." shortens left out."""
    lines = "\n".join(snippets(path, "sh")).replace("\\\n", " ").replace("&&", "\n").splitlines()
    found = (shlex.split(line, comments=True) for line in lines)
    return [words[1:] for words in found if words[:1] == ["ivlens"] and not {"...", "--version"} & {*words}]


@pytest.mark.parametrize("path", [path for path in (README, *PAGES) if commands(path)], ids=lambda path: path.name)
def test_every_command_parses_and_its_training_is_possible(path: Path) -> None:
    for words in commands(path):
        options = build_parser(words).parse_args(words)
        assert options.verb is VERBS[words[0]]
        if words[0] in ("train", "continual"):
            training_config(options)


@pytest.mark.parametrize("path", [README, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_relative_link_and_image_exists(path: Path) -> None:
    titles = re.findall(r"^#+ (.*)$", prose(path), flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\(\s*<?([^)\s>]+)", prose(path)):
        target, anchor = local(link) or (".", "")
        assert (path.parent / target).exists(), link
        assert target or anchor in anchors, link


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """The site, built by the README's command into a folder of the test, without a warning."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs, which builds the site, is not installed: pip install '.[docs]'")
    command = "mkdocs build --strict"
    assert command in README.read_text(encoding="utf-8")
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", *command.split(), "--site-dir", str(folder)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return {file.relative_to(folder).as_posix(): Page(file) for file in folder.rglob("*.html")}


def test_the_api_pages_hold_every_public_name(site: dict[str, Page]) -> None:
    anchors = {anchor for page in site.values() for anchor in page.anchors}
    public = {f"ivlens.{name}" for name in iv.__all__ if name != "views"}
    public |= {f"ivlens.views.{name}" for name in iv.views.__all__}
    assert public - anchors == set()


def test_every_link_inside_the_site_leads_somewhere(site: dict[str, Page]) -> None:
    followed = 0
    for name, page in site.items():
        if name == "404.html":  # whose links begin at the root of a host
            continue
        for path, anchor in filter(None, map(local, page.links)):
            target = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            if not target.endswith(".html"):
                continue
            assert target in site, (name, path)
            assert not anchor or anchor in site[target].anchors, (name, path, anchor)
            followed += 1
    assert followed > 500


def test_no_page_loads_anything_from_a_network(site: dict[str, Page]) -> None:
    for name, page in site.items():
        assert [link for link in page.loads if local(link) is None] == [], name


def test_the_site_has_the_notebooks_and_the_columns(site: dict[str, Page]) -> None:
    assert {f"notebooks/{path.stem}.html" for path in (ROOT / "notebooks").glob("*.ipynb")} <= {*site}
    names = [name.lower().replace(".", "") for name in FRAMES]
    assert {*names} <= site["columns.html"].anchors


SAMPLES = dict(SAMPLE.findall((DOCS / "models-and-data.md").read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_of_every_format_loads(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(SAMPLES[name], encoding="utf-8")
    task = iv.load_task(tmp_path / name)
    assert any("yellow" in answer for example in task.examples for answer in example.answers)
    assert 2 <= len(task.examples) <= 3


def test_every_format_has_a_sample() -> None:
    assert len(SAMPLES) == 8


@pytest.mark.parametrize("path", [path for path in PAGES if snippets(path, "python")], ids=lambda path: path.stem)
def test_the_snippets_of_a_page_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_hf: Any, tiny_tokenizer: Any, chatml: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, seed in (("model", 0), ("tuned", 1)):
        tiny_hf("llama", seed=seed, **SHAPE).save_pretrained(folder)
        tiny_tokenizer(chat_template=chatml).save_pretrained(folder)
    code = "\n".join(snippets(path, "python"))
    for large, small in SMALLER.items():
        code = code.replace(large, small)
    names: dict[str, Any] = {"__name__": path.stem}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, path.name, "exec"), names)
    models = [each for each in names.values() if isinstance(each, HookedTransformer)]
    assert not any(point.fwd_hooks for model in models for point in model.hook_dict.values())


def test_the_readmes_example_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(iv, "load_model", lambda name: smollm2)
    (code,), (expected,) = snippets(README, "python"), snippets(README, "text")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    found = printed.getvalue()
    assert NUMBER.sub("#", found).split() == NUMBER.sub("#", expected).split()
    numbers = [[float(each) for each in NUMBER.findall(text)] for text in (found, expected)]
    assert numbers[0] == pytest.approx(numbers[1], abs=0.05)
