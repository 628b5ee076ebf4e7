"""Every operation in plain NumPy, written to be read.

These functions are the derivations turned into array expressions, and the oracle of the Numba kernels:
the two share names and signatures but no code. Arrays are (N, C, H, W) or (N, F); ``stride``,
``dilation`` and ``kernel_size`` are (height, width); ``padding`` is ((top, bottom), (left, right)).
"""

from cnn.reference.activation import (
    elu_backward,
    elu_forward,
    gelu_backward,
    gelu_forward,
    hardsigmoid_backward,
    hardsigmoid_forward,
    hardswish_backward,
    hardswish_forward,
    hardtanh_backward,
    hardtanh_forward,
    leaky_relu_backward,
    leaky_relu_forward,
    relu6_backward,
    relu6_forward,
    relu_backward,
    relu_forward,
    sigmoid_backward,
    sigmoid_forward,
    silu_backward,
    silu_forward,
    tanh_backward,
    tanh_forward,
)
from cnn.reference.conv import (
    conv2d_backward_input,
    conv2d_backward_weight,
    conv2d_forward,
)
from cnn.reference.elementwise import (
    add,
    add_channel,
    channel_sum,
    concat,
    dropout_backward,
    dropout_forward,
    flatten,
    multiply,
    multiply_backward,
    scale,
    split,
    unflatten,
)
from cnn.reference.global_pool import (
    global_avg_pool_backward,
    global_avg_pool_forward,
    global_max_pool_backward,
    global_max_pool_forward,
)
from cnn.reference.group_norm import (
    group_norm_backward,
    group_norm_forward,
)
from cnn.reference.images import (
    blacken_squares,
    cut_windows,
    flip_images,
    normalize_pixels,
    recolor_images,
    resample_images,
)
from cnn.reference.linear import (
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
)
from cnn.reference.local_response_norm import (
    local_response_norm_backward,
    local_response_norm_forward,
)
from cnn.reference.loss import (
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from cnn.reference.norm import (
    batch_norm_backward,
    batch_norm_eval,
    batch_norm_forward,
    batch_norm_train,
    values_per_channel,
)
from cnn.reference.orthogonal import (
    orthogonalize,
)
from cnn.reference.pool import (
    avg_pool2d_backward,
    avg_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from cnn.reference.prelu import (
    prelu_backward,
    prelu_forward,
)
from cnn.reference.resize import (
    pad2d_backward,
    pad2d_forward,
    upsample_nearest_backward,
    upsample_nearest_forward,
)
from cnn.reference.softmax import (
    log_softmax_backward,
    log_softmax_forward,
    softmax_backward,
    softmax_forward,
)
from cnn.reference.softplus import (
    softplus_backward,
    softplus_forward,
)
from cnn.reference.update import (
    adam_update,
    rmsprop_update,
    sgd_update,
    squared_norm,
)

__all__ = [
    "adam_update",
    "add",
    "add_channel",
    "avg_pool2d_backward",
    "avg_pool2d_forward",
    "batch_norm_backward",
    "batch_norm_eval",
    "batch_norm_forward",
    "batch_norm_train",
    "blacken_squares",
    "channel_sum",
    "concat",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv2d_forward",
    "cut_windows",
    "dropout_backward",
    "dropout_forward",
    "elu_backward",
    "elu_forward",
    "flatten",
    "flip_images",
    "gelu_backward",
    "gelu_forward",
    "global_avg_pool_backward",
    "global_avg_pool_forward",
    "global_max_pool_backward",
    "global_max_pool_forward",
    "group_norm_backward",
    "group_norm_forward",
    "hardsigmoid_backward",
    "hardsigmoid_forward",
    "hardswish_backward",
    "hardswish_forward",
    "hardtanh_backward",
    "hardtanh_forward",
    "leaky_relu_backward",
    "leaky_relu_forward",
    "linear_backward_input",
    "linear_backward_weight",
    "linear_forward",
    "local_response_norm_backward",
    "local_response_norm_forward",
    "log_softmax_backward",
    "log_softmax_forward",
    "max_pool2d_backward",
    "max_pool2d_forward",
    "multiply",
    "multiply_backward",
    "normalize_pixels",
    "orthogonalize",
    "pad2d_backward",
    "pad2d_forward",
    "prelu_backward",
    "prelu_forward",
    "recolor_images",
    "relu6_backward",
    "relu6_forward",
    "relu_backward",
    "relu_forward",
    "resample_images",
    "rmsprop_update",
    "scale",
    "sgd_update",
    "sigmoid_backward",
    "sigmoid_forward",
    "silu_backward",
    "silu_forward",
    "softmax_backward",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "softmax_forward",
    "softplus_backward",
    "softplus_forward",
    "split",
    "squared_norm",
    "tanh_backward",
    "tanh_forward",
    "unflatten",
    "upsample_nearest_backward",
    "upsample_nearest_forward",
    "values_per_channel",
]
