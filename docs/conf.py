"""How the site is built (`make docs`): from files here and from docstrings, without a network."""

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

from generate import write_all  # noqa: E402 (beside this file)

project = "eenet"
author = "the authors of eenet"
project_copyright = author
release = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[0]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
templates_path: list[str] = []

myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_block"]
myst_heading_anchors = 3

default_role = "code"  # docstrings mark names with single backticks
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 70
toc_object_entries = False  # headings name them already
suppress_warnings = ["ref.python"]  # `bytes`, the type, is also the name of a field of two results

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "eenet"
html_static_path = ["_static"]
html_css_files = ["eenet.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_search_summary = False  # would fetch pages, which a browser refuses without a server
html_theme_options: dict[str, Any] = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}
html_sidebars = {"index": []}
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda _: write_all())
    app.add_html_math_renderer("mathml", (_inline_math, None), (_display_math, None))


def _inline_math(self: Any, node: Any) -> None:
    """Formulas as MathML, which browsers draw; Sphinx's own renderers need a network or LaTeX."""
    self.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def _display_math(self: Any, node: Any) -> None:
    self.body.append(f'<div class="formula">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode
