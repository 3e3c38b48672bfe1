"""The migration page: complete, true, and its code runs.

``python -m tests.common.test_from_art`` brings the page's marks (planned) up to date.
"""

import importlib
import re
from pathlib import Path

import pytest

from skart.gradients import _registry

PAGE = Path(__file__).parents[2] / "docs" / "from_art.md"
TEXT = PAGE.read_text()

# Files of the tree in section 3 of the paper, and the classes and functions that its other sections name.
TREE = {
    "attacks": """
        adversarial_patch attack boundary carlini decision_tree_attack deepfool elastic_net fast_gradient hclu
        hop_skip_jump iterative_method newtonfool projected_gradient_descent saliency_map spatial_transformation
        universal_perturbation virtual_adversarial zoo
    """,
    "classifiers": """
        blackbox catboost classifier detector_classifier ensemble GPy keras lightgbm mxnet pytorch scikitlearn
        tensorflow xgboost
    """,
    "defences": """
        adversarial_trainer feature_squeezing gaussian_augmentation jpeg_compression label_smoothing pixel_defend
        preprocessor spatial_smoothing thermometer_encoding variance_minimization
    """,
    "detection": """
        subsetscanning/detector subsetscanning/scanner subsetscanning/scanningops subsetscanning/scoring_functions
        detector
    """,
    "metrics": "metrics verification_decision_trees",
    "poison_detection": "activation_defence clustering_analyzer ground_truth_evaluator poison_filtering_defence",
    "wrappers": "expectation query_efficient_bb randomized_smoothing wrapper",
    None: "data_generators utils utils_test visualization",
}
NAMES = """
    TensorFlowClassifier TensorFlowV2Classifier KerasClassifier PyTorchClassifier MXClassifier SklearnClassifier
    XGBoostClassifier LightGBMClassifier CatBoostARTClassifier GPyGaussianProcessClassifier BlackBoxClassifier
    EnsembleClassifier Classifier ClassifierNeuralNetwork ClassifierGradients ClassifierDecisionTree ClassifierWrapper
    ExpectationOverTransformations QueryEfficientBBGradientEstimation RandomizedSmoothing Attack FastGradientMethod
    BasicIterativeMethod ProjectedGradientDescent SaliencyMapMethod CarliniL2Method CarliniLInfMethod DeepFool
    UniversalPerturbation NewtonFool VirtualAdversarialMethod SpatialTransformation ElasticNet ZooAttack BoundaryAttack
    AdversarialPatch DecisionTreeAttack HighConfidenceLowUncertainty HopSkipJump AdversarialTrainer Preprocessor
    FeatureSqueezing LabelSmoothing SpatialSmoothing JpegCompression ThermometerEncoding TotalVarMin
    GaussianAugmentation PixelDefend Detector BinaryInputDetector BinaryActivationDetector SubsetScanningDetector
    PoisonFilteringDefence
    ActivationDefence empirical_robustness loss_sensitivity clever_u clever_t
    RobustnessVerificationTreeModelsCliqueMethod DataGenerator KerasDataGenerator MXDataGenerator PyTorchDataGenerator
""".split()
WORDS = """
    preprocessing defences clip_values channel_index input_shape nb_classes layer_names get_activations
    set_learning_phase class_gradient loss_gradient get_trees save predict fit generate set_params
    estimate_gradient fit_generator
""".split()


def cells():
    """The first and the second cells of the tables' rows."""
    rows = [line.split(" | ") for line in TEXT.splitlines() if line.startswith("| ")]
    assert all(len(row) == 2 for row in rows)
    return [row[0] for row in rows], [row[1] for row in rows]


def tables():
    """Files in the first column of each table, by the folder that its header names."""
    found, folder = {}, None
    for line in TEXT.splitlines():
        if line.startswith("| ART"):
            match = re.match(r"\| ART, `art/(\w+)/`", line)
            folder = match and match[1]
        elif line.startswith("| "):
            found.setdefault(folder, set()).update(re.findall(r"`([\w/]+)\.py`", line.split(" | ")[0]))
    return found


@pytest.mark.parametrize("folder", TREE)
def test_every_file_of_the_tree_has_its_place(folder):
    assert tables()[folder] == set(TREE[folder].split())


def test_every_class_and_function_has_its_place():
    first, second = cells()
    named = set(re.findall(r"`(\w+)`", "\n".join(first)))
    assert not set(NAMES) - named
    # No cell of the second column is empty.
    assert all(re.search(r"\w", cell) for cell in second)


def test_every_argument_and_method_has_its_place():
    assert not set(WORDS) - set(re.findall(r"\w+", TEXT))


HOW = "`python -m tests.common.test_from_art` brings its marks (planned) up to date"
OURS = r"`(skart(?:\.\w+)+)`( \(planned\))?"


def ours():
    """The names of skart's on the page, and whether they are said to be planned."""
    return re.findall(OURS, TEXT)


def is_there(name):
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError:
        return False


def test_the_page_says_what_is_there():
    missing = {name for name, planned in ours() if not planned and not is_there(name)}
    assert not missing, f"docs/from_art.md gives as there what is not: {sorted(missing)}; {HOW}."


def test_the_page_does_not_promise_what_is_there():
    stale = {name for name, planned in ours() if planned and is_there(name)}
    assert not stale, f"docs/from_art.md calls planned what is there: {sorted(stale)}; {HOW}."


def test_code_names_are_written_in_full():
    """Short names of skart's would escape the tests above."""
    public = {name.rpartition(".")[2] for name, _ in ours()}
    second = "\n".join(cells()[1])
    short = set(re.findall(r"`(\w+)`", second)) & public
    assert not short - {"GaussianProcessClassifier"}


@pytest.mark.filterwarnings("ignore")
def test_its_code_runs(capsys, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(_registry, "_user_rules", dict(_registry._user_rules))  # it registers a rule
    namespace = {"__name__": "from_art"}
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len(blocks) >= 5
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
    printed = capsys.readouterr().out.splitlines()
    for line in printed[:2]:
        clean, attacked = map(float, line.split())
        assert clean > 0.9 > 0.5 > attacked
    assert namespace["hidden"].shape == (450, 8, 6, 6)


def up_to_date(text):
    """The page with the marks as they should be."""
    return re.sub(OURS, lambda found: f"`{found[1]}`{'' if is_there(found[1]) else ' (planned)'}", text)


def test_marks_are_brought_up_to_date():
    text = "`skart.attacks.FastGradientMethod` (planned), `skart.nowhere.Nothing`, `skart.attacks.Nothing` (planned)"
    right = "`skart.attacks.FastGradientMethod`, `skart.nowhere.Nothing` (planned), `skart.attacks.Nothing` (planned)"
    assert up_to_date(text) == up_to_date(right) == right


if __name__ == "__main__":
    PAGE.write_text(up_to_date(TEXT))
