"""Attacks that look for the smallest perturbation, on the CNN for MNIST.

The floor of the attacks with a penalty are the forward-backward passes of all their steps. That of the search within
a bound that shrinks has no such number, since every library stops where it sees fit: it is what ten bounds of a hundred
steps would cost.
"""

from benchmarks._contenders import adversarial_library, foolbox, torchattacks
from benchmarks._harness import Passes, Row
from benchmarks._models import MnistNet
from benchmarks.white_box import art, skart
from skart.attacks import CarliniL2Method, CarliniLInfMethod, ElasticNetAttack

__all__ = ["rows"]


def rows():
    # The rate at which the other libraries succeed on all images: at 0.01, their default, it is a third of them.
    rate, weights = 0.05, {"initial_const": 1.0, "binary_search_steps": 5}
    attack = CarliniL2Method(**weights, learning_rate=rate, max_iter=100, const_factor=10, abort_early=False)
    contenders = {
        "skart": skart(attack),
        "art": art("CarliniL2Method", **weights, learning_rate=rate, max_iter=100, verbose=False),
        "foolbox": foolbox("L2CarliniWagnerAttack", **weights, stepsize=rate, steps=100, abort_early=False),
        "torchattacks": torchattacks("CW", c=1.0, lr=rate, steps=500),
        "adv_lib": adversarial_library(
            "carlini_wagner_l2", **weights, learning_rate=rate, max_iterations=100, abort_early=False
        ),
    }
    yield Row("carlini-l2", MnistNet, Passes(gradients=500, values=1), contenders, bound=1.20)
    contenders = {
        "skart": skart(CarliniL2Method()),
        "foolbox": foolbox("L2CarliniWagnerAttack", **weights, stepsize=rate, steps=100),
        "adv_lib": adversarial_library("carlini_wagner_l2", **weights, learning_rate=rate, max_iterations=100),
    }
    # skart by its defaults, and the others with an early end: in units of the same floor.
    yield Row("carlini-l2-early", MnistNet, Passes(gradients=500, values=1), contenders, bound=1.20)
    contenders = {
        "skart": skart(CarliniLInfMethod()),
        "art": art("CarliniLInfMethod", max_iter=100, verbose=False),
        "adv_lib": adversarial_library("carlini_wagner_linf", max_iterations=100),
    }
    yield Row("carlini-linf", MnistNet, Passes(gradients=1000, values=1), contenders)
    for rule, beta in [("EN", 1e-3), ("L1", 1e-2)]:
        weights = {"initial_const": 1e-3, "binary_search_steps": 9}
        attack = ElasticNetAttack(
            **weights, decision_rule=rule, beta=beta, learning_rate=0.01, max_iter=100, const_factor=10
        )
        contenders = {
            "skart": skart(attack),
            "art": art("ElasticNet", **weights, decision_rule=rule, beta=beta, max_iter=100, verbose=False),
            "foolbox": foolbox(
                "EADAttack", **weights, decision_rule=rule, regularization=beta, steps=100, abort_early=False
            ),
            "torchattacks": torchattacks(f"EAD{rule}", **weights, beta=beta, max_iterations=100, abort_early=False),
        }
        yield Row(f"elastic-net-{rule.lower()}", MnistNet, Passes(gradients=900, values=901), contenders)
