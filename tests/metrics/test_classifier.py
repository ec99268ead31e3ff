"""The classifier's shapes, and that its accuracy is the share of right answers."""

import torch

from genbook.metrics.classifier import Classifier, accuracy, features_of


def test_shapes_of_flat_and_square_images() -> None:
    model = Classifier()
    flat = torch.rand(5, 784, generator=torch.Generator().manual_seed(0))
    assert model(flat).shape == (5, 10)
    assert torch.equal(model(flat), model(flat.reshape(5, 1, 28, 28)))
    colour = Classifier(channels=3, size=32, classes=7)
    assert colour(torch.rand(2, 3, 32, 32)).shape == (2, 7)


def test_features_are_what_the_last_layer_sees() -> None:
    model, x = Classifier(), torch.rand(5, 784)
    torch.testing.assert_close(model.out(features_of(model, x, block=2)), model(x))


def test_accuracy_counts_right_answers() -> None:
    model, x = Classifier(), torch.rand(30, 784)
    labels = model(x).argmax(dim=1)
    labels[:6] = (labels[:6] + 1) % 10
    assert accuracy(model, x, labels, block=7) == 0.8
