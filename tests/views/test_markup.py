"""Templates: a value is text unless it is marked as HTML, a missing one is an error, all files are installed."""

import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

import ivlens
from ivlens.views.checkpoints.answer import Step
from ivlens.views.markup import TEMPLATES, render
from ivlens.views.style import FONT, INK, PAPER

MALICE = "<script>alert('&')</script>"
ESCAPED = "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;"
PACKAGE = Path(ivlens.__file__).parent


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("details.html", {"summary": MALICE, "content": MALICE}),
        ("table.html", {"caption": MALICE, "header": [(MALICE, "number")], "rows": [[(MALICE, "")]]}),
        ("section.html", {"heading": MALICE, "level": 3, "anchor": MALICE}),
        ("steps.html", {"steps": [Step(MALICE, MALICE, MALICE, MALICE)]}),
        (
            "example.html",
            {"task": MALICE, "about": MALICE, "prompt": MALICE, "bare": MALICE, "answers": [(MALICE, MALICE, True)]},
        ),
        ("contents.html", {"contents": [(MALICE, [(MALICE, MALICE)])]}),
        ("page.html", {"title": MALICE, "sections": [(MALICE, MALICE)], "plotly": MALICE}),
        ("attention_frame.html", {"view": MALICE}),
        ("iframe.html", {"height": MALICE, "document": MALICE}),
    ],
)
def test_text_never_runs_as_markup(template: str, values: dict[str, object]) -> None:
    text = render(template, **values)
    assert MALICE not in text
    assert text.count(ESCAPED) == str(values).count("alert") + (template == "page.html")  # the title twice


def test_html_is_html_only_where_it_is_marked() -> None:
    assert "<summary>a\\x1b</summary><p>b</p>" in render("details.html", summary="a\x1b", content=Markup("<p>b</p>"))


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="content"):
        render("details.html", summary="a")


def test_all_templates_are_installed_and_used() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["ivlens"]
    assert all(
        any(fnmatch(f"views/templates/{name}", each) for each in patterns) for name in TEMPLATES.list_templates()
    )
    code = "".join(
        path.read_text(encoding="utf-8")
        for path in PACKAGE.glob("views/**/*")
        if path.is_file() and path.suffix != ".pyc"
    )
    assert [name for name in TEMPLATES.list_templates() if f'"{name}"' not in code] == []


def test_style_sheets_have_the_figures_font_and_colours() -> None:
    page, frame = (render(name) for name in ("page.css", "attention_frame.css"))
    assert FONT in page
    assert FONT in frame
    assert all(colour in page and colour in frame for colour in (INK, PAPER))
