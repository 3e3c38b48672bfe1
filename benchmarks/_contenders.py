"""Attacks of other libraries on torch nets: functions from a name and parameters to a contender."""

import contextlib
import importlib
import importlib.util
import sys
import types

__all__ = ["adversarial_library", "foolbox", "torchattacks"]

CLIP_VALUES = (0.0, 1.0)


def foolbox(name, **parameters):
    """An attack of foolbox that looks for a small perturbation, by the name of its class."""

    def prepare(task):
        import foolbox
        import torch

        model = foolbox.PyTorchModel(task.module, bounds=CLIP_VALUES, device="cpu")
        attack = getattr(foolbox.attacks, name)(**parameters)
        images, labels = torch.from_numpy(task.X), torch.from_numpy(task.y)
        goal = foolbox.criteria.Misclassification(labels)
        return lambda: attack.run(model, images, goal).detach().numpy()

    return prepare


def torchattacks(name, **parameters):
    """An attack of torchattacks, by the name of its class."""

    def prepare(task):
        import torch

        with _stand_ins("torchvision", "torchvision.transforms"):
            library = importlib.import_module("torchattacks")
        attack = getattr(library, name)(task.module, **parameters)
        images, labels = torch.from_numpy(task.X), torch.from_numpy(task.y)
        return lambda: attack(images, labels).detach().numpy()

    return prepare


def adversarial_library(name, **parameters):
    """An attack of adversarial-library, by the name of its function."""

    def prepare(task):
        import torch

        # It imports them for plots and for a distance of images; no attack here uses either.
        try:
            with _stand_ins("visdom", "torchvision", "torchvision.models"):
                library = importlib.import_module("adv_lib.attacks")
        except ImportError as error:
            # Not in the extra "bench", since visdom is built from source, which fails with recent tools.
            raise RuntimeError(f"{error}; `pip install --no-deps adv-lib` brings it in") from error
        attack = getattr(library, name)
        images, labels = torch.from_numpy(task.X), torch.from_numpy(task.y)
        return lambda: attack(task.module, images, labels, **parameters).detach().numpy()

    return prepare


@contextlib.contextmanager
def _stand_ins(*names):
    """Empty modules in the place of those that are not installed, for the time of an import."""
    made = []
    for name in names:
        package = name.partition(".")[0]
        try:
            missing = package in made or (package not in sys.modules and importlib.util.find_spec(package) is None)
        except ValueError:  # a module without a spec is somebody else's stand-in
            missing = False
        if missing:
            sys.modules[name] = module = types.ModuleType(name)
            if name != package:
                setattr(sys.modules[package], name.rpartition(".")[2], module)
            made.append(name)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]
