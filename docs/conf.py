"""How `make site` builds the pages of this folder. They are plain Markdown, for a forge to show as well."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE / "_extensions")]

import pyvirtio

project = "pyvirtio"
author = "the pyvirtio authors"
copyright = f"2026 {author}"  # noqa: A001  # Sphinx's name for it
version = release = pyvirtio.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "names", "outside"]
exclude_patterns = ["_extensions"]
highlight_language = "text"  # of blocks that only are indented

# What somebody links to has to be there: names of the API, pages, headings.
nitpicky = True

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence"]
myst_heading_anchors = 4

default_role = "py:obj"  # `Device` in a docstring is a link
autodoc_preserve_defaults = True  # as they are written
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # one table of a class's attributes

html_theme = "furo"
html_title = f"pyvirtio {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}

# Whoever copies a console block wants its commands, without prompts and output.
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"


class _NotOfEmptyFolders(logging.Filter):
    """Lets a folder of pages be empty: Sphinx has no name for that warning, so it cannot be suppressed by one."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "didn't match any documents" not in str(record.msg)


logging.getLogger("sphinx.sphinx.directives.other").addFilter(_NotOfEmptyFolders())
