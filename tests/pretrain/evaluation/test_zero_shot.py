"""Zero-shot accuracy against numpy, with templates, ties and classes of one name. CPU, milliseconds."""

import numpy as np
import pytest
import torch

from pretrain.evaluation.zero_shot import accuracy_names, class_features, zero_shot_accuracy


def test_accuracy_is_that_of_the_mean_text_of_each_class() -> None:
    generator = np.random.default_rng(0)
    images, texts = generator.normal(size=(60, 6)), generator.normal(size=(8 * 3, 6)) * generator.uniform(1, 9, (24, 1))
    labels = generator.integers(0, 8, 60)
    unit = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    means = unit.reshape(8, 3, 6).mean(1)
    classes = means / np.linalg.norm(means, axis=1, keepdims=True)
    order = (-(images @ classes.T)).argsort(1)
    found = class_features(torch.tensor(texts), 8)
    np.testing.assert_allclose(found.numpy(), classes, atol=1e-6)
    assert zero_shot_accuracy(torch.tensor(images), found, torch.tensor(labels)) == {
        "zero_shot/acc1": pytest.approx((order[:, 0] == labels).mean()),
        "zero_shot/acc5": pytest.approx((order[:, :5] == labels[:, None]).any(1).mean()),
    }


def test_classes_of_one_name_are_not_found_first() -> None:
    classes = class_features(torch.tensor([[1.0, 0], [1, 0], [0, 1]]), 3)
    found = zero_shot_accuracy(torch.tensor([[2.0, 0], [0, 1]]), classes, torch.tensor([0, 2]))
    assert found == {"zero_shot/acc1": 0.5}


def test_a_figure_that_is_always_one_is_left_out() -> None:
    assert accuracy_names(5) == ("zero_shot/acc1",) and accuracy_names(6) == ("zero_shot/acc1", "zero_shot/acc5")
