"""Sphinx's settings of the book; its source is the repository, notebooks as stored."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import extension  # noqa: E402
import pages  # noqa: E402

project = "lemur_mini"
author = "the lemur_mini authors, Apache-2.0"
root_doc = "notebooks/book/index"
include_patterns = pages.SOURCES
exclude_patterns = pages.NO_PAGES

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
nb_execution_mode = "off"
nb_merge_streams = True
nb_number_source_lines = False
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # exercises stand a level below what is above them

# The signatures and docstrings of the core, without the libraries that it needs.
MOCKED = "torch torchvision transformers tokenizers safetensors datasets numpy scipy"
MOCKED += " sklearn pyarrow PIL matplotlib tqdm filelock"
autodoc_mock_imports = MOCKED.split()
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
default_role = "code"  # `name` in a docstring
python_maximum_signature_line_length = 80
viewcode_follow_imported_members = False  # what is mocked has no source

html_theme = "sphinx_book_theme"
html_title = "lemur_mini"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_extra_path = []
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = html_show_copyright = False
html_theme_options = {
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "navbar_persistent": [],
}
if repository := os.environ.get("GITHUB_REPOSITORY"):
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    html_theme_options |= {
        "repository_url": f"{server}/{repository}",
        "use_repository_button": True,
        "use_issues_button": True,
    }

if tags.has("print"):  # noqa: F821
    html_theme, html_theme_options, html_css_files = "basic", {}, ["print.css"]
    suppress_warnings += ["toc.not_readable"]  # one page has no index
if tags.has("pdf"):  # noqa: F821
    html_extra_path = [str(ROOT / "build" / "book" / "lemur_mini.pdf")]

setup = extension.setup
