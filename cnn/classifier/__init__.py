"""`cnn.Classifier`: a network as an estimator of scikit-learn."""

from cnn.classifier.estimator import Classifier, NotFitted

__all__ = ["Classifier", "NotFitted"]
