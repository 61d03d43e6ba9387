"""How Sphinx makes the site; ``build.py`` gathers the pages and runs it."""

from __future__ import annotations

import os
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the package beside this file, whichever is installed
os.environ["DIFFUSION_LAB_OFFLINE"] = "1"  # autodoc imports it: nothing may ask outside

from diffusion_lab import about  # noqa: E402

project = html_title = "Efficient diffusion models for vision"
author = "The diffusion_lab authors"
copyright = "The diffusion_lab authors. Code: MIT. Text and figures: CC BY 4.0"
version = release = about.VERSION
language = "en"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]

# The notebooks are shown as they are stored: nothing runs. Their widgets are stills, so the scripts
# that would bring widgets to life, from another host, are not wanted.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, Any] = {}
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
suppress_warnings = [
    "mystnb.unknown_mime_type",  # rows of the running table, kept as data beside their text
]

# What a module defines itself, not what it hands on from others: each thing stands once.
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Step": "Step", "Time": "Time", "Noise": "Noise", "Number": "Number"}
add_module_names = False
highlight_language = "text"  # equations and command lines; code cells say that they are Python
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 80

html_theme = "sphinx_book_theme"
html_static_path = [str(ROOT / "site" / "static")]
html_css_files = ["site.css"]
html_use_index = html_domain_indices = False  # the search finds the same
html_sourcelink_suffix = ""  # the download button gives NAME.ipynb, not NAME.ipynb.txt
html_theme_options = {
    "repository_url": about.REPOSITORY,
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": True,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search field stands in the side bar, once
}

# A figure's alt text lies in the metadata of its output, of which myst-nb reads the size alone.
_render_image = NbElementRenderer.render_image


def _with_alt(self: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
    images = _render_image(self, data)
    images[0]["alt"] = data.output_metadata.get(data.mime_type, {}).get("alt", "")
    return images


NbElementRenderer.render_image = _with_alt


def _link_outside(app: Sphinx, doctree: nodes.document) -> None:
    """Links to files of the repository that are no pages of the site lead to the code host."""
    here = ROOT / app.env.docname
    for node in list(doctree.findall(pending_xref)):
        file = (here.parent / node["reftarget"].split("#")[0]).resolve()
        known = node.get("refdomain") == "doc" or node["reftype"] != "myst"
        if not known and file.exists() and file.is_relative_to(ROOT):
            kind = "tree" if file.is_dir() else "blob"
            address = f"{about.REPOSITORY}/{kind}/main/{file.relative_to(ROOT).as_posix()}"
            link = nodes.reference("", "", *node.children[0].children, refuri=address)
            node.replace_self(link)


def _as_rst(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list) -> None:
    """Docstrings are plain text: equations and columns are shown as they stand, bars are bars."""
    text, margin = [], ""
    for blank, group in groupby(lines, key=lambda line: not line.strip()):
        block = list(group)
        equation = block[0].startswith("  ") and not HEADING.fullmatch(margin)
        if equation or COLUMNS.match(block[0]):
            text += ["::", "", *(f"    {line}" for line in block), ""]
        else:
            text += [MARK.sub(_escaped, line) for line in block]
        if not blank:
            margin = next((line for line in reversed(block) if line[:1] != " "), margin)
    lines[:] = text


HEADING = re.compile(r"(Args|Attributes|Raises|Returns|Yields):")  # napoleon reads what follows
COLUMNS = re.compile(r"\S+ {2,}\S")
MARK = re.compile(r"``.*?``|(?<!\S)\*\w[^*]*\*(?!\w)|[|*]")  # code, emphasis, a lone mark


def _escaped(mark: re.Match[str]) -> str:
    return f"\\{mark[0]}" if len(mark[0]) == 1 else mark[0]


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", _link_outside)
    app.connect("autodoc-process-docstring", _as_rst, priority=400)  # before napoleon
