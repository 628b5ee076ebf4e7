"""The question this project began with: why is the gradient of softmax and cross-entropy p - y?

With p = [0.1, 0.2, 0.25, 0.4, 0.05] and the third class being right, the loss passes back
[0.1, 0.2, -0.75, 0.4, 0.05]: in one step, and through the Jacobian of softmax.
"""

import numpy as np
import pytest

from cnn.layers import CrossEntropy, Softmax, SoftmaxCrossEntropy

P = np.array([[0.1, 0.2, 0.25, 0.4, 0.05]])
Y = np.array([[0.0, 0.0, 1.0, 0.0, 0.0]])
EXPECTED = [[0.1, 0.2, -0.75, 0.4, 0.05]]


@pytest.mark.parametrize("targets", [Y, np.array([2])], ids=["row", "index"])
@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_softmax_cross_entropy_passes_p_minus_y(targets, shift, backend):
    loss = SoftmaxCrossEntropy()
    value = loss.forward(np.log(P) + shift, targets)
    assert value == pytest.approx(-np.log(0.25), rel=1e-14)
    np.testing.assert_allclose(loss.probabilities, P, rtol=1e-14)
    np.testing.assert_allclose(loss.backward(), EXPECTED, rtol=1e-13)


@pytest.mark.parametrize("targets", [Y, np.array([2])], ids=["row", "index"])
def test_softmax_then_cross_entropy_passes_the_same(targets, backend):
    softmax, loss = Softmax(), CrossEntropy()
    value = loss.forward(softmax.forward(np.log(P)), targets)
    assert value == pytest.approx(-np.log(0.25), rel=1e-14)
    dp = loss.backward()
    np.testing.assert_allclose(dp, [[0, 0, -4, 0, 0]], rtol=1e-13)
    np.testing.assert_allclose(np.asarray(softmax.backward(dp)), EXPECTED, rtol=1e-13)


def test_the_jacobian_of_softmax_turns_minus_y_over_p_into_p_minus_y(backend):
    """Row by row: dS_i/dz_j = S_i (delta_ij - S_j), and (-y/p) times it is p - y."""
    softmax = Softmax()
    softmax.forward(np.log(P))
    jacobian = np.stack([np.asarray(softmax.backward(row[None]))[0] for row in np.eye(5)])
    np.testing.assert_allclose(jacobian, np.diag(P[0]) - np.outer(P[0], P[0]), atol=1e-16)
    np.testing.assert_allclose((-Y / P) @ jacobian, EXPECTED, rtol=1e-13)


def test_targets_that_do_not_sum_to_one_give_p_times_their_sum_minus_y(backend):
    y = np.array([[0.5, 0.0, 2.0, 0.0, 0.25]])
    loss, softmax, separate = SoftmaxCrossEntropy(), Softmax(), CrossEntropy()
    loss.forward(np.log(P), y)
    np.testing.assert_allclose(loss.backward(), P * 2.75 - y, rtol=1e-13)
    separate.forward(softmax.forward(np.log(P)), y)
    np.testing.assert_allclose(np.asarray(softmax.backward(separate.backward())), P * 2.75 - y, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_a_thousand_stay_exact(dtype, backend):
    """p is 1 or 0 to the last bit, and the loss is the difference of the logits."""
    logits = np.array([[1000, -1000, 0], [-1000, 1000, 0], [-1000, -1000, -1000]], dtype)
    loss = SoftmaxCrossEntropy(reduction="sum")
    assert loss.forward(logits, np.array([0, 0, 1])) == pytest.approx(0 + 2000 + np.log(3), rel=1e-7)
    third = 1 / 3
    expected = [[0, 0, 0], [-1, 1, 0], [third, third - 1, third]]
    np.testing.assert_allclose(loss.backward(), expected, rtol=1e-6, atol=0)


def test_the_bundled_recipe_pushes_the_right_class_up_by_what_it_lacks():
    from cnn.config import bundled_config, load_config
    from cnn.training import experiment

    loss = experiment.build_loss(load_config(bundled_config()), classes=5)
    assert loss.forward(np.log(P), np.array([2])) == pytest.approx(-np.log(0.25))
    np.testing.assert_allclose(loss.backward(), EXPECTED, rtol=1e-13)
