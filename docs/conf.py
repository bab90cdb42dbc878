"""Sphinx configuration: ``sphinx-build -W docs docs/_build/html``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ips_components import __version__

project = "ips_components"
author = "the ips_components authors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_generated", "Thumbs.db"]
source_suffix = {".md": "markdown"}
default_role = "py:obj"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autosummary_generate = False  # numpydoc switches it on
autodoc_member_order = "bysource"
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "alabaster"
html_title = "ips_components"
html_static_path = ["_static"]
html_css_files = ["calm.css"]
html_copy_source = False
html_show_sourcelink = False
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_theme_options = {
    "description": "MPI simulations and Dask analytics, coupled in transit under IPS",
    "fixed_sidebar": True,
    "page_width": "1120px",
    "sidebar_width": "250px",
    "show_powered_by": False,
    "show_related": False,
    "show_relbars": True,
}


def setup(app: Any) -> None:
    """Write the pages that are made from code and examples, before Sphinx looks for pages."""
    sys.path.insert(0, str(Path(__file__).parent))
    from course import write_course
    from generated import write_pages

    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)))
    app.connect("builder-inited", lambda app: write_course(Path(app.srcdir)))
