"""Sphinx configuration."""

project = "recollect"
author = "The recollect developers"
copyright = "the recollect developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath", "amsmath", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "recollect"
exclude_patterns = ["_build"]
# Attributes of results are described once, in the class docstring.
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]


def _keep_bars(app, what, name, obj, options, lines):
    # |x| is an absolute value here, never a substitution.
    lines[:] = [line.replace("|", "\\|") for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", _keep_bars)
