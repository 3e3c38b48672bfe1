"""Import of optional packages, with an error that names the extra to install."""

import importlib

__all__ = ["import_optional"]


def import_optional(module, *, extra, purpose):
    """Import ``module``, or raise an ``ImportError`` that says what needs it and how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(
            f"{purpose} needs {package}, which is not installed; `pip install 'skart[{extra}]'` brings it."
        ) from error
