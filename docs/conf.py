"""Configuration of the documentation, which ``make docs`` builds."""

import importlib
import inspect
import pkgutil
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

import skart

DOCS = Path(__file__).parent

project = "skart"
author = "the skart developers"
copyright = "2026, the skart developers"
version = release = installed_version("skart")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates"]
default_role = "literal"

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "navigation_with_keys": False,
}
html_show_sourcelink = False

# -- Gallery ---------------------------------------------------------------------------------------------------------

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    # Files whose name starts with plot_ are run and shown; the others are scripts that need data or time.
    "filename_pattern": r"[\\/]plot_",
    "ignore_pattern": r"(^|[\\/])(?!plot_)[^\\/]*\.py$",
    "abort_on_example_error": True,
    "show_memory": False,
    "plot_gallery": "True",
}
# The gallery runs without a display; what matplotlib says about that is no news.
warnings.filterwarnings("ignore", message=".*non-interactive.*", category=UserWarning)

# -- API reference ---------------------------------------------------------------------------------------------------

autosummary_generate = True
numpydoc_show_class_members = False  # the class template lists them, inherited ones included
numpydoc_xref_param_type = False
autodoc_typehints = "none"  # types stand in the docstrings


def public_modules():
    """Return skart's public modules with the names that each exports, every object under the first that exports it."""
    names = [m.name for m in pkgutil.iter_modules(skart.__path__) if not m.name.startswith("_")]
    modules, seen = {}, set()
    # The top level repeats names of the packages, so it comes last and keeps what is its own.
    for module in [*(importlib.import_module(f"skart.{name}") for name in sorted(names)), skart]:
        exported = {name: getattr(module, name) for name in getattr(module, "__all__", ())}
        own = [
            name
            for name, obj in exported.items()
            if (inspect.isclass(obj) or inspect.isroutine(obj)) and id(obj) not in seen
        ]
        seen.update(id(exported[name]) for name in own)
        if own:
            modules[module] = own
    return modules


def write_api_pages(app, config):
    """Write the API reference from each package's ``__all__``, so that it lists what there is."""
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    pages = set()
    lines = ["API reference", "=============", ""]
    for module, exported in public_modules().items():
        title = f":mod:`{module.__name__}`"
        lines += [title, "-" * len(title), "", f".. automodule:: {module.__name__}", "   :no-members:", ""]
        lines += [".. autosummary::", "   :toctree: generated", "   :nosignatures:", ""]
        lines += [f"   {name}" for name in sorted(exported)] + [""]
        pages |= {f"{module.__name__}.{name}.rst" for name in exported}
    for stale in (folder / "generated").glob("*.rst"):
        if stale.name not in pages:
            stale.unlink()
    write_if_new(folder / "index.rst", "\n".join(lines))


def write_support_table(app, config):
    """Write the table of supported models from the registry of rules."""
    from skart.oracles._support import support_table

    public_modules()  # imports all packages, whose own rules join the registry
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 34 10 48 8", ""]
    package = None
    rows = [("Model", "Access", "Gradient", "Trees")]
    for row in support_table():
        module, _, name = row.path.rpartition(".")
        if module != package:
            rows.append((f"**{module}**", "", "", ""))
            package = module
        rows.append((f"`{name}`", row.access, row.gradient, "yes" if row.structure else ""))
    for cells in rows:
        lines += [f"   {'*' if n == 0 else ' '} - {cell}" for n, cell in enumerate(cells)]
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    write_if_new(folder / "support_table.txt", "\n".join(lines) + "\n")


def write_if_new(page, text):
    """Leave a page alone that says the same already, so that Sphinx need not read it again."""
    if not page.exists() or page.read_text() != text:
        page.write_text(text)


def skip_foreign_members(app, what, name, obj, skip, options):
    """Leave out what a class inherits from scikit-learn or the standard library: their own pages document it."""
    module = getattr(obj, "__module__", None) or ""
    return True if inspect.isroutine(obj) and module.split(".")[0] not in ("skart", "") else None


def setup(app):
    app.connect("config-inited", write_api_pages)
    app.connect("config-inited", write_support_table)
    app.connect("autodoc-skip-member", skip_foreign_members)
