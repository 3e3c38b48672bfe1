import importlib
import os

import pytest

# Some of scikit-learn's checks want SciPy's array API on, and SciPy reads this when it is imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")


@pytest.fixture(params=["array_api_compat.numpy", "array_api_compat.torch", "array_api_strict"], ids=lambda name: name)
def xp(request):
    """The array namespaces that the core runs in; array-api-strict stands for those nobody has thought of."""
    pytest.importorskip(request.param.removeprefix("array_api_compat."))
    return importlib.import_module(request.param)
