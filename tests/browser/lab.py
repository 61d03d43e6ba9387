"""The course in JupyterLab, in a real Chromium: ``make test-browser``. Not part of ``make test``.

Skipped where there is no Chromium (Debian: apt install chromium). Nothing leaves the machine.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LESSON = "07_solvers.ipynb"
TOUCHED = """
import torch
from diffusion_lab.course import plots
from diffusion_lab.course.checks import lesson01 as check
from diffusion_lab.course.widgets import choice, explore, player, slider

plots.show_table([{"system": "DDIM", "NFE": 10, "FD": 0.5}] * 3, title="A table")
check.half_life(0.1) if hasattr(check, "half_life") else None
frames = [torch.full((20, 1, 28, 28), v) for v in (-1.0, 0.0, 1.0)]
display(player(frames, columns=20, alt="a fade", caption="It fades."))
explore(
    lambda t, kind: plots.lines([0, 1], {"a": [0, t]}, xlabel="t", ylabel="y"),
    t=slider("time t", 0.5, 0.0, 1.0, 0.1, unit="of the way"),
    kind=choice("schedule", ["linear", "cosine"]),
    alt="a line", caption="It rises.",
)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a JupyterLab, and the folder that it shows."""
    root = tmp_path_factory.mktemp("lab")
    shutil.copyfile(NOTEBOOKS / LESSON, root / LESSON)
    cell = nbformat.v4.new_code_cell(TOUCHED)
    about = nbformat.read(root / LESSON, as_version=4).metadata
    made = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": about.kernelspec})
    nbformat.write(made, root / "touched.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
        f"--ServerApp.root_dir={root}",
        "--IdentityProvider.token=",
        "--expose-app-in-browser",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
    ]
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], cwd=root)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{address}/lab", timeout=5).close()
                break
            except OSError:
                time.sleep(0.5)
        yield address, root
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        yield browser
        browser.close()


def opened(browser: Any, address: str, name: str, width: int, dark: bool = False) -> Any:
    """A page with a notebook whose kernel is ready."""
    page = browser.new_page(viewport={"width": width, "height": 1000})
    page.goto(f"{address}/lab/tree/{name}?reset", timeout=120_000)
    page.wait_for_function("window.jupyterapp !== undefined", timeout=120_000)
    page.evaluate(
        """async (dark) => {
          const app = window.jupyterapp;
          await app.restored;
          if (dark) await app.commands.execute("apputils:change-theme", {theme: "JupyterLab Dark"});
          for (;;) {
            const now = app.shell.currentWidget;
            if (now && now.context && now.sessionContext) {
              await now.context.ready; await now.sessionContext.ready; break;
            }
            await new Promise((done) => setTimeout(done, 200));
          }
        }""",
        dark,
    )
    return page


def everywhere(page: Any, look: str) -> list[Any]:
    """What ``look`` finds all the way down: JupyterLab holds only the cells that are in view."""
    return page.evaluate(
        """async (text) => {
          const panel = document.querySelector(".jp-WindowedPanel-outer");
          const look = eval(text), found = [];
          for (let y = 0; y < panel.scrollHeight; y += 500) {
            panel.scrollTop = y;
            await new Promise((done) => setTimeout(done, 150));
            found.push(...look());
          }
          return found;
        }""",
        look,
    )


WIDE = """() => [...document.querySelectorAll(".jp-OutputArea-output")].flatMap((area) => {
  // a wide table scrolls in its own box: nothing of it is cut
  if (area.querySelector("table") && ["auto", "scroll"].includes(getComputedStyle(area).overflowX))
    return [];
  const outside = [...area.querySelectorAll("img, table, pre, p, div")].filter(
    (one) => one.getBoundingClientRect().right > area.getBoundingClientRect().right + 1);
  const cut = area.scrollWidth > area.clientWidth + 1;
  return outside.length || cut ? [area.textContent.slice(0, 80)] : [];
})"""
FIGURES = """() => [...document.querySelectorAll(".jp-RenderedImage img")].map((one) => {
  const below = one.closest(".jp-OutputArea-child").nextElementSibling;
  return below !== null && below.querySelector("details summary") !== null;
})"""
NAMELESS = """() => [...document.querySelectorAll(".diffusion-lab-alive")].flatMap((box) =>
  [...box.querySelectorAll("[role=slider], button, select, input, img")].filter((one) =>
    !(one.getAttribute("aria-label") || one.alt || one.title || one.textContent.trim()
      || (one.labels && one.labels.length && one.labels[0].textContent.trim())
      || one.closest("[aria-hidden=true]") || one.offsetParent === null)
  ).map((one) => one.outerHTML.slice(0, 120)))"""


def test_opening_and_saving_a_lesson_changes_nothing(lab, chromium):
    address, root = lab
    before = (root / LESSON).read_bytes()
    page = opened(chromium, address, LESSON, 1400)
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    page.wait_for_timeout(5000)
    page.close()
    assert (root / LESSON).read_bytes() == before == (NOTEBOOKS / LESSON).read_bytes()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [900, 1400])
def test_a_stored_lesson_fits_and_its_figures_speak(lab, chromium, width, dark):
    page = opened(chromium, lab[0], LESSON, width, dark)
    figures = everywhere(page, FIGURES)
    assert len(figures) > 5 and all(figures)
    assert everywhere(page, WIDE) == []
    page.close()


@pytest.mark.parametrize("width", [900, 1400])
def test_live_controls_have_names_and_pictures_fit(lab, chromium, width):
    page = opened(chromium, lab[0], "touched.ipynb", width)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector(".diffusion-lab-alive .widget-play", timeout=120_000)
    page.wait_for_selector(".diffusion-lab-alive [role=slider][aria-label]", timeout=30_000)
    page.wait_for_timeout(4000)
    assert page.evaluate(NAMELESS) == []
    names = page.evaluate("[...document.querySelectorAll('[role=slider]')].map(s => s.ariaLabel)")
    assert sorted(names) == ["step", "time t (of the way)"]
    assert page.evaluate(WIDE) == []
    handle = page.locator("[role=slider][aria-label^=time]")
    was = page.locator(".diffusion-lab-alive img").last.get_attribute("src")
    handle.focus()
    handle.press("ArrowRight")
    page.wait_for_function(
        "(was) => [...document.querySelectorAll('.diffusion-lab-alive img')].pop().src !== was",
        arg=was,
        timeout=20_000,
    )
    page.close()
