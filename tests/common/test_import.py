"""``import skart`` is light, and public names lead somewhere."""

import importlib
import json
import subprocess
import sys

import pytest

import skart
from tests.common._discovery import public_modules

OPTIONAL = """
GPy PIL array_api_strict catboost keras lightgbm matplotlib mxnet numba pandas polars scikeras skorch tensorflow torch
tqdm xgboost
""".split()

REPORT = """
import json, sys, time
import sklearn
before, start = set(sys.modules), time.perf_counter()
import skart
seconds = time.perf_counter() - start
light = sorted(set(sys.modules) - before)
{more}
print(json.dumps([seconds, light, sorted(sys.modules)]))
"""


def in_a_fresh_process(more=""):
    done = subprocess.run([sys.executable, "-c", REPORT.format(more=more)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_is_light():
    runs = [in_a_fresh_process() for _ in range(2)]
    # The faster one: a busy machine makes any single run slow.
    assert min(seconds for seconds, _, _ in runs) < 0.3
    brought = runs[0][1]
    assert "skart" in brought
    assert not {module.partition(".")[0] for module in brought} & set(OPTIONAL)


def test_no_package_imports_an_optional_one():
    with_sklearn = {module.partition(".")[0] for module in in_a_fresh_process()[2]}
    imports = "\n".join(f"import {name}" for name in public_modules())
    modules = {module.partition(".")[0] for module in in_a_fresh_process(imports)[2]}
    # scikit-learn may bring pandas in by itself.
    assert not (modules - with_sklearn) & set(OPTIONAL)


@pytest.mark.parametrize("name", public_modules())
def test_public_names_exist(name):
    module = importlib.import_module(name)
    assert list(module.__all__) == sorted(module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        assert getattr(module, public) is not None
        assert public in dir(module)


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        skart.nonsense  # noqa: B018
