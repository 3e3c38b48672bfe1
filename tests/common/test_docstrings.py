"""Every public class and function is documented in numpydoc's form, every parameter by name."""

import dataclasses
import inspect
import re

import pytest

from tests.common._discovery import public_objects

PUBLIC = public_objects()
# Made by functions and methods only; their attributes are documented, and the examples are those of their makers.
RECORDS = {name for name, thing in PUBLIC.items() if dataclasses.is_dataclass(thing)}


def sections(thing):
    """Text of each section of a docstring, by its title."""
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2]))}


def entries(section):
    """Names that a section describes; "X, y : array" describes two."""
    heads = [line for line in section.splitlines() if line and not line.startswith((" ", ".", ">"))]
    return {name.strip().lstrip("*") for head in heads for name in head.partition(" :")[0].split(",")}


def parameters(function):
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def methods(cls):
    """Public methods that a class of skart's gives itself."""
    for name, member in vars(cls).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            yield name, member


def undocumented(thing):
    return sorted(set(parameters(thing)) - entries(sections(thing).get("Parameters", "")))


@pytest.mark.parametrize("name", PUBLIC)
def test_is_documented(name):
    thing = PUBLIC[name]
    found = sections(thing)
    assert found[""].strip(), "no summary"
    if name in RECORDS:
        assert {field.name for field in dataclasses.fields(thing)} <= entries(found["Attributes"])
        return
    if inspect.isclass(thing) and issubclass(thing, Exception):
        assert "Examples" in found
        return
    if not inspect.isabstract(thing):
        assert not undocumented(thing)
        assert ">>> " in found.get("Examples", "")
    if inspect.isfunction(thing):
        returns_nothing = thing.__module__.startswith("skart.utils._check")
        assert returns_nothing or "Returns" in found


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if inspect.isclass(thing)])
def test_methods_are_documented(name):
    for method_name, method in methods(PUBLIC[name]):
        doc = sections(method)
        assert doc[""].strip(), f"{method_name} has no summary"
        # What is said of parameters must be all of them, and none that are gone.
        if "Parameters" in doc:
            assert entries(doc["Parameters"]) == set(parameters(method)), method_name


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if hasattr(thing, "fit")])
def test_fitted_attributes_are_documented(name):
    """An attribute that the sources of a class set on a fitted estimator stands in its docstring."""
    cls = PUBLIC[name]
    if inspect.isabstract(cls):
        return
    ours = [ancestor for ancestor in cls.__mro__ if ancestor.__module__.startswith("skart")]
    told = set().union(*(entries(sections(ancestor).get("Attributes", "")) for ancestor in ours))
    own = "".join(inspect.getsource(ancestor) for ancestor in ours)
    assert set(re.findall(r"\bself\.([a-z]\w*[a-z0-9]_)\b = ", own)) <= told


def test_the_parser_reads_several_names_and_sees_gaps():
    def function(a, b, c):
        """Summary.

        Parameters
        ----------
        a, b : int
            Two numbers.
        """

    assert undocumented(function) == ["c"]
