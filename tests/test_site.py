"""The site: it builds from what is stored, is complete, and its pages ask no other host."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from diffusion_lab import about
from diffusion_lab.course import lessons

pytest.importorskip("sphinx_book_theme", reason="the extra `site` is not installed")
pytestmark = pytest.mark.slow

LOADS = ("src", "href", "srcset", "data", "poster", "action")
ELSEWHERE = re.compile(r"(https?:)?//", re.IGNORECASE)


class Page(HTMLParser):
    """The tags of a page with their attributes, and the names that links may lead to."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.text = file, file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(self.text)
        self.ids = {found[key] for _, found in self.tags for key in ("id", "name") if key in found}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def all(self, tag):
        return [found for name, found in self.tags if name == tag]


@pytest.fixture(scope="module")
def built(root, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, str(root / "site" / "build.py"), str(out)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def pages(built) -> dict[str, Page]:
    """Every page by its place, without the templates that the theme leaves in _static."""
    files = [file for file in built.rglob("*.html") if "_static" not in file.parts]
    return {file.relative_to(built).as_posix(): Page(file) for file in files}


def test_every_ready_lesson_has_its_page_its_notebook_and_colab(root, built, pages):
    assert lessons.ready()
    for name in lessons.ready():
        page = pages[f"notebooks/{name}.html"]
        links = [found.get("href", "") for found in page.all("a")]
        path = about.REPOSITORY.removeprefix("https://github.com/")
        colab = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb"
        assert colab in links
        given = f"_sources/notebooks/{name}.ipynb"
        assert any(link.endswith(given) for link in links)
        assert (built / given).read_bytes() == (root / f"notebooks/{name}.ipynb").read_bytes()
        assert f"notebooks/{name}.html" in [x.get("href") for x in pages["index.html"].all("a")]


def test_every_page_about_the_course_is_there(root, pages):
    for file in [*root.glob("[A-Z]*.md"), *root.glob("notebooks/*.md")]:
        assert file.relative_to(root).with_suffix(".html").as_posix() in pages


def test_solutions_are_not_on_the_site(built, pages):
    assert not [name for name in pages if "solution" in name]
    assert not [file for file in built.rglob("*.ipynb") if "solutions" in file.parts]


def test_pages_load_nothing_from_another_host(built, pages):
    for name, page in pages.items():
        for tag, found in page.tags:
            outside = {key: found[key] for key in LOADS if ELSEWHERE.match(found.get(key, ""))}
            assert tag == "a" or not outside, f"{name}: <{tag}> loads {outside}"
            assert not re.search(r"url\(\W*(https?:)?//", found.get("style", "")), name
        assert not re.search(r"jsdelivr|unpkg|cdnjs|googleapis", page.text), name
    for file in built.rglob("*.css"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", text), file


def test_mathjax_is_part_of_the_site(built, pages):
    page = pages["notebooks/01_destroying_data.html"]
    (script,) = [x["src"] for x in page.all("script") if "mathjax" in x.get("src", "")]
    file = (page.file.parent / urlsplit(script).path).resolve()
    assert file.is_relative_to(built.resolve())
    assert file.stat().st_size > 100_000
    assert list((file.parent / "output/chtml/fonts").rglob("*.woff"))


def test_every_picture_says_what_it_shows(pages):
    for name, page in pages.items():
        silent = [found.get("src") for found in page.all("img") if not found.get("alt", "").strip()]
        assert not silent, f"{name}: {silent}"


@pytest.mark.parametrize("name", lessons.ready())
def test_figures_have_the_alt_text_that_is_stored_with_them(root, pages, name):
    notebook = json.loads((root / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    outputs = [out for cell in notebook["cells"] for out in cell.get("outputs", ())]
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    stored = [out["metadata"]["image/png"]["alt"] for out in pictures]
    images = pages[f"notebooks/{name}.html"].all("img")
    assert [x["alt"] for x in images if "_images/" in x.get("src", "")] == stored
    assert stored


def test_dead_widgets_leave_no_trace(pages):
    for name, page in pages.items():
        if name.startswith("notebooks/"):
            scripts = [found.get("type", "") for found in page.all("script")]
            assert not [kind for kind in scripts if "widget" in kind], name
        assert "Error displaying widget" not in page.text


def test_internal_links_resolve(built, pages):
    here = {page.file.resolve(): page for page in pages.values()}
    wrong = []
    for name, page in pages.items():
        for found in page.all("a"):
            link = urlsplit(found.get("href", ""))
            if link.scheme or link.netloc or not (link.path or link.fragment):
                continue
            target = (page.file.parent / unquote(link.path)).resolve() if link.path else page.file
            goal, part = here.get(target.resolve()), unquote(link.fragment)
            if not target.exists() or (goal and part and part not in goal.ids):
                wrong.append(f"{name}: {found['href']}")
    assert not wrong


def test_links_that_leave_for_the_repository_name_files_of_it(root, pages):
    address = re.compile(re.escape(about.REPOSITORY) + r"/(?:blob|tree)/main/([^#?]+).*")
    wrong, count = [], 0
    for name, page in pages.items():
        for found in page.all("a"):
            match = address.fullmatch(found.get("href", ""))
            count += bool(match)
            if match and not (root / unquote(match[1])).exists():
                wrong.append(f"{name}: {match[0]}")
    assert not wrong
    assert count


def test_search_and_dark_mode_are_there(built, pages):
    index = (built / "searchindex.js").read_text(encoding="utf-8")
    assert all(f"notebooks/{name}" in index for name in lessons.ready())
    for name in lessons.ready():
        assert "theme-switch-button" in pages[f"notebooks/{name}.html"].text


def test_the_reference_has_every_public_function_and_class(root, pages):
    spec = importlib.util.spec_from_file_location("build", root / "site" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    there = set().union(*(page.ids for name, page in pages.items() if name.startswith("api/")))
    missing, count = [], 0
    for names in build.modules().values():
        for name in names:
            module = importlib.import_module(name)
            for word in getattr(module, "__all__", ()):
                thing = getattr(module, word)
                if inspect.isroutine(thing) or inspect.isclass(thing):
                    count += 1
                    place = f"{thing.__module__}.{thing.__qualname__}"
                    if place not in there:
                        missing.append(place)
    assert not missing
    assert count > 150


def test_the_workflow_runs_the_checks_and_builds_the_site(root):
    text = (root / ".github" / "workflows" / "checks.yml").read_text()
    steps = yaml.safe_load(text)["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run", "make site"]
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "site"], cwd=root, capture_output=True, text=True
    )
    assert "site/build.py" in done.stdout
