"""The table of instances and the walk through the packages: what the other contracts rest on."""

import pytest
from sklearn.base import BaseEstimator
from sklearn.utils.estimator_checks import check_parameters_default_constructible

from skart.attacks import FastGradientMethod, ProjectedGradientDescent
from skart.defences import FeatureSqueezing
from tests.common._discovery import INSTANCES, instances, public_attacks, public_estimators, public_modules


def test_the_walk_finds_what_is_known_to_be_there():
    assert {"skart", "skart.attacks", "skart.defences", "skart.exceptions", "skart.oracles"} <= set(public_modules())
    assert {FastGradientMethod, ProjectedGradientDescent} <= set(public_attacks())
    assert FeatureSqueezing in public_estimators()


def test_the_table_names_what_exists():
    assert set(INSTANCES) <= {cls.__name__ for cls in public_estimators()}


def test_an_estimator_without_defaults_or_entry_fails():
    class Demanding(BaseEstimator):
        def __init__(self, needed):
            self.needed = needed

    with pytest.raises(AssertionError, match="Demanding cannot be made without arguments"):
        instances(Demanding)
    assert instances(Demanding, {"Demanding": lambda cls: [cls(1)]})[0].needed == 1


@pytest.mark.parametrize("cls", public_attacks())
def test_defaults_of_attacks_are_constructible(cls):
    check_parameters_default_constructible(cls.__name__, cls())
