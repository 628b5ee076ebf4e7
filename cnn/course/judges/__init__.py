"""Who marks which exercise: a function ``(sheet, answer)`` for each; ``answer`` is the learner's module.

Expected numbers come from ``cnn.reference``; the numbers of typical mistakes are computed beside them, so
that a wrong answer can be told by name. Where a derivative is asked for, the gradient check has the last
word.
"""

from cnn.course.judges import layers, loss, norm, training, windows

JUDGES = {
    "softmax": loss.softmax,
    "softmax_jacobian": loss.softmax_jacobian,
    "p_minus_y": loss.p_minus_y,
    "linear": layers.linear,
    "relu": layers.relu,
    "dropout": layers.dropout,
    "conv_forward": windows.conv_forward,
    "conv_dx": windows.conv_dx,
    "conv_dw": windows.conv_dw,
    "max_pool": windows.max_pool,
    "batch_norm_forward": norm.batch_norm_forward,
    "batch_norm_backward": norm.batch_norm_backward,
    "momentum": training.momentum,
    "numerical_gradient": training.numerical_gradient,
    "training_step": training.training_step,
    "residual_block": training.residual_block,
}
