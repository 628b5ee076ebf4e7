"""The plain loops compute what the array expressions compute."""

import numpy as np
import pytest

from cnn import reference
from cnn.explain.derivations import derivation, kinds, loop_source
from cnn.reference import loops

#: stride, padding, dilation, groups: each once away from its default, and all of them together
CONVOLUTIONS = {
    "plain": ((1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "padded": ((1, 1), ((1, 2), (2, 0)), (1, 1), 1),
    "stride": ((2, 3), ((1, 1), (0, 2)), (1, 1), 1),
    "dilation": ((1, 1), ((2, 1), (1, 2)), (2, 1), 1),
    "groups": ((1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "all": ((2, 1), ((2, 1), (1, 2)), (1, 2), 2),
}
WINDOWS = {
    "2x2": ((2, 2), (2, 2), ((0, 0), (0, 0))),
    "overlapping": ((3, 2), (1, 2), ((1, 1), (1, 0))),
    "gaps": ((1, 2), (2, 3), ((0, 0), (1, 1))),
}


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def same(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution_and_its_three_gradients(settings, bias):
    groups = settings[-1]
    x, weight, b = draw(2, 4, 6, 7), draw(6, 4 // groups, 3, 2), draw(6) if bias else None
    y = reference.conv2d_forward(x, weight, b, *settings)
    same(loops.conv2d_forward(x, weight, b, *settings), y)
    dy, dweight, dbias = draw(*y.shape, seed=1), np.zeros_like(weight), np.zeros(6)
    expected = reference.conv2d_backward_input(dy, weight, x.shape, *settings)
    same(loops.conv2d_dx(dy, weight, x.shape, *settings), expected)
    reference.conv2d_backward_weight(dy, x, dweight, *settings)
    same(loops.conv2d_dweight(dy, x, weight.shape, *settings), dweight)
    reference.channel_sum(dy, dbias)
    same(loops.conv2d_dbias(dy), dbias)


@pytest.mark.parametrize("settings", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_transposed_convolution_and_its_gradients(settings):
    groups = settings[-1]
    weight, b, shape = draw(6, 4 // groups, 3, 2), draw(4), (2, 4, 6, 7)
    x = draw(*reference.conv2d_forward(np.zeros(shape), weight, None, *settings).shape)
    y = reference.add_channel(reference.conv2d_backward_input(x, weight, shape, *settings), b)
    same(loops.conv_transpose2d_forward(x, weight, b, shape, *settings), y)
    dy, dweight = draw(*shape, seed=1), np.zeros_like(weight)
    expected = reference.conv2d_forward(dy, weight, None, *settings)
    same(loops.conv_transpose2d_dx(dy, weight, *settings), expected)
    reference.conv2d_backward_weight(x, dy, dweight, *settings)
    same(loops.conv_transpose2d_dweight(dy, x, weight.shape, *settings), dweight)


@pytest.mark.parametrize("settings", WINDOWS.values(), ids=WINDOWS)
def test_max_pooling_with_ties(settings):
    x = np.round(draw(2, 3, 6, 7))  # whole numbers tie often
    y, where = loops.max_pool2d_forward(x, *settings)
    expected, argmax = reference.max_pool2d_forward(x, *settings)
    same(y, expected)
    dy = draw(*y.shape, seed=1)
    same(
        loops.max_pool2d_dx(dy, where, x.shape), reference.max_pool2d_backward(dy, argmax, x.shape, *settings)
    )


def test_max_pooling_with_dilation():
    x, settings = draw(2, 3, 9, 8), ((2, 3), (2, 1), ((1, 0), (1, 2)), (3, 2))
    y, where = loops.max_pool2d_forward(x, *settings)
    expected, argmax = reference.max_pool2d_forward(x, *settings)
    same(y, expected)
    dy = draw(*y.shape, seed=1)
    same(
        loops.max_pool2d_dx(dy, where, x.shape), reference.max_pool2d_backward(dy, argmax, x.shape, *settings)
    )


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("settings", WINDOWS.values(), ids=WINDOWS)
def test_average_pooling(settings, count_include_pad):
    x, settings = draw(2, 3, 6, 7), (*settings, count_include_pad)
    y = reference.avg_pool2d_forward(x, *settings)
    same(loops.avg_pool2d_forward(x, *settings), y)
    dy = draw(*y.shape, seed=1)
    same(loops.avg_pool2d_dx(dy, x.shape, *settings), reference.avg_pool2d_backward(dy, x.shape, *settings))


def test_global_average_pooling():
    x, dy = draw(2, 3, 4, 5), draw(2, 3)
    same(loops.global_avg_pool_forward(x), reference.global_avg_pool_forward(x))
    same(loops.global_avg_pool_dx(dy, x.shape), reference.global_avg_pool_backward(dy, x.shape))


def test_linear():
    x, weight, b, dy, dweight = draw(3, 4), draw(5, 4), draw(5), draw(3, 5), np.zeros((5, 4))
    same(loops.linear_forward(x, weight, b), reference.linear_forward(x, weight, b))
    same(loops.linear_dx(dy, weight), reference.linear_backward_input(dy, weight))
    reference.linear_backward_weight(dy, x, dweight)
    same(loops.linear_dweight(dy, x), dweight)
    same(loops.linear_dbias(dy), dy.sum(axis=0))


def test_relu():
    x, dy = np.append(draw(20), 0.0), draw(21)
    same(loops.relu_forward(x), reference.relu_forward(x))
    same(loops.relu_dx(dy, x), reference.relu_backward(dy, x))


def test_batch_normalisation_through_its_three_paths():
    x, dy, gamma, beta, eps = draw(12), draw(12, seed=1), 1.7, -0.3, 1e-5
    column, d = x[:, None], dy[:, None]
    running = np.zeros(1), np.zeros(1)
    mean, rstd = reference.batch_norm_train(column, *running, 1.0, eps)
    var, dgamma, dbeta = running[1] * (len(x) - 1) / len(x), np.zeros(1), np.zeros(1)
    same(loops.batch_norm_statistics(x), (mean[0], var[0]))
    y = reference.batch_norm_forward(column, mean, rstd, np.array([gamma]), np.array([beta]))
    same(loops.batch_norm_forward(x, mean[0], var[0], gamma, beta, eps), y[:, 0])
    dx = reference.batch_norm_backward(d, column, mean, rstd, np.array([gamma]), dgamma, dbeta, True)
    same(loops.batch_norm_dx(dy, x, mean[0], var[0], gamma, eps), dx[:, 0])
    same(loops.batch_norm_dgamma(dy, x, mean[0], var[0], eps), dgamma[0])
    same(loops.batch_norm_dbeta(dy), dbeta[0])


@pytest.mark.parametrize("y", [[0, 0, 1, 0, 0], [0.5, 0, 2, 0, 0.25]], ids=["one-hot", "sums to 2.75"])
def test_softmax_and_cross_entropy(y):
    z, y = draw(5) * 3, np.array(y, float)
    p = loops.softmax_forward(z)
    same(p, reference.softmax_forward(z[None])[0])
    losses, _ = reference.softmax_cross_entropy_forward(z[None], y[None])
    same(loops.cross_entropy_forward(p, y), losses[0])
    expected = reference.softmax_cross_entropy_backward(p[None], y[None], 1.0)[0]
    same(loops.softmax_cross_entropy_dz(p, y), expected)
    same(loops.softmax_dx(loops.cross_entropy_dp(p, y), p), expected)


@pytest.mark.parametrize("kind", [kind for kind in kinds() if loop_source(kind)])
def test_the_loops_of_a_layer_belong_to_its_equations_and_name_the_line_that_adds(kind):
    equations = {step["id"] for step in derivation(kind)}
    for equation, code in loop_source(kind).items():
        assert equation in equations
        line = code["source"].splitlines()[code["line"]]
        assert "=" in line
        assert line.startswith("        ")
