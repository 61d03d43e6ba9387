"""Both ways of installing: from a wheel (also straight from the repository) and editable.

Each goes into a fresh environment outside the repository that borrows the dependencies of this one
and nothing else, so that nothing is downloaded. The package is then used from another folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from diffusion_lab import about

pytestmark = pytest.mark.slow

# pip must neither ask an index nor fetch a build tool (hatchling is in the dev extra).
PIP = {
    "PIP_NO_INDEX": "1",
    "PIP_NO_DEPS": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # pip reads this one upside down: 0 switches isolation off
    "PIP_IGNORE_INSTALLED": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
}

LOOK = """
import json, sys
from pathlib import Path
import diffusion_lab
from diffusion_lab.course import lessons
from diffusion_lab.data import load, store
images = load("fashion", split="test").x
print(json.dumps({
    "version": diffusion_lab.__version__,
    "package": str(Path(diffusion_lab.__file__).parent),
    "data": str(store.folder()),
    "lessons": str(lessons.folder()),
    "images": list(images.shape),
}))
"""


def run(command: list[str | Path], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command outside the repository, with no leftover path to it."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PIP_FIND_LINKS")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment | PIP | variables,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def environment(folder: Path) -> Path:
    """A fresh environment that sees this one's dependencies, not this one's package; its python."""
    venv.create(folder, with_pip=False)
    bin_folder = folder / ("Scripts" if os.name == "nt" else "bin")
    python = bin_folder / Path(sys.executable).name
    purelib = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder)
    # Path files inside a borrowed folder are not read, so an editable install does not leak in.
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(purelib.stdout.strip()) / "borrowed.pth").write_text("\n".join(sorted(borrowed)))
    return python


def look(python: Path, cwd: Path) -> dict:
    """What an installed package says about itself, asked from the folder ``cwd``."""
    return json.loads(run([python, "-c", LOOK], cwd).stdout)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory) -> Path:
    """The wheel of a copy of the work tree: a build must leave nothing in the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    hidden = shutil.ignore_patterns(
        ".git", ".venv", "__pycache__", ".*_cache", "runs", "downloads", "htmlcov", "tests"
    )
    shutil.copytree(root, folder / "copy", ignore=hidden)
    run([sys.executable, "-m", "pip", "wheel", "-q", "-w", folder, folder / "copy"], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def from_wheel(wheel, tmp_path_factory) -> Path:
    python = environment(tmp_path_factory.mktemp("from-wheel") / "venv")
    run([python, "-m", "pip", "install", "-q", wheel], wheel.parent)
    return python


def test_the_wheel_carries_data_lessons_and_licences(root, wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for name in json.loads((root / "data" / "index.json").read_text()):
        assert f"diffusion_lab/_data/{name}" in inside
    for notebook in (root / "notebooks").glob("*.ipynb"):
        assert f"diffusion_lab/_notebooks/{notebook.name}" in inside
    assert "diffusion_lab/_benchmarks/results.json" in inside, "lessons show measured rows"
    assert "diffusion_lab/course/survey.json" in inside
    assert {Path(name).name for name in inside} >= {"LICENSE", "LICENSE-text", "entry_points.txt"}
    tops = {name.split("/")[0] for name in inside}
    assert tops == {"diffusion_lab", f"diffusion_lab-{about.VERSION}.dist-info"}
    assert not [name for name in inside if "__pycache__" in name or ".ipynb_checkpoints" in name]


def test_an_installed_wheel_brings_its_own_data(from_wheel, elsewhere):
    found = look(from_wheel, elsewhere)
    assert found["version"] == about.VERSION
    assert Path(found["package"]).is_relative_to(from_wheel.parent.parent)
    assert found["data"] == str(Path(found["package"]) / "_data")
    assert found["lessons"] == str(Path(found["package"]) / "_notebooks")
    assert found["images"][-2:] == [28, 28]


def test_the_command_is_installed(from_wheel, elsewhere):
    command = from_wheel.parent / "diffusion-lab"
    assert about.VERSION in run([command, "--version"], elsewhere).stdout


def test_an_editable_install_finds_the_repository(root, elsewhere, tmp_path):
    python = environment(tmp_path / "venv")
    run([python, "-m", "pip", "install", "-q", "-e", root], elsewhere)
    found = look(python, elsewhere)
    assert found["package"] == str(root / "diffusion_lab")
    assert found["data"] == str(root / "data")
    assert found["lessons"] == str(root / "notebooks")
    purelib = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    assert not (purelib / "diffusion_lab").exists(), "no copy of the data may stay behind"


def test_the_hosted_cell_installs_from_the_repository_and_lesson_00_runs(root, elsewhere, tmp_path):
    """What Colab does: lesson 00 alone, elsewhere, with nothing installed but its dependencies.

    A clone of this repository stands for the published address, set up as a code host is: pip
    asks for a partial clone, and git goes round in circles where the server does not know how.
    """
    notebook = root / "notebooks" / "00_start_here.ipynb"
    if not (root / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: there is nothing to install from")
    if not notebook.is_file():
        pytest.skip("lesson 00 is not built yet")
    clone = tmp_path / "clone"
    run(["git", "clone", "-q", "--bare", root, clone], elsewhere)
    for setting in ("uploadpack.allowFilter", "uploadpack.allowAnySHA1InWant"):
        run(["git", "-C", clone, "config", setting, "true"], elsewhere)
    text = notebook.read_text()
    assert about.REPOSITORY in text
    alone = elsewhere / notebook.name
    alone.write_text(text.replace(about.REPOSITORY, f"file://localhost{clone}"))
    python = environment(tmp_path / "venv")
    script = (
        "import nbformat, nbclient, importlib.util\n"
        "assert importlib.util.find_spec('diffusion_lab') is None\n"
        f"lesson = nbformat.read({str(alone)!r}, as_version=4)\n"
        "nbclient.NotebookClient(lesson, timeout=900, kernel_name='python3').execute()\n"
        "import diffusion_lab; print(diffusion_lab.__file__)"
    )
    done = run([python, "-c", script], elsewhere, DIFFUSION_LAB_LEVEL="smoke")
    assert done.stdout.strip().startswith(str(tmp_path / "venv"))
