"""The documentation site: ``make docs`` builds it from the pages of this folder."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import django_resilient_pg

project = "django-resilient-pg"
author = "The django-resilient-pg developers"
copyright = author
release = version = django_resilient_pg.__version__

extensions = ["docs.extension"]
exclude_patterns = ["_build", "extension"]
nitpicky = True
highlight_language = "text"
pygments_style = "friendly"
pygments_dark_style = "github-dark"

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_use_index = False  # there is nothing to list
# Every file the pages need is part of the build: nothing is fetched when they are read.
html_theme_options = {"navigation_with_keys": True}
