"""Every operation as Numba kernels: the same names and signatures as ``cnn.reference``, other code.

Arrays are (N, C, H, W) or (N, F), plain or blocked; what comes back is a ``cnn.fast.blocked.BlockedArray``,
which reads like the plain array (``np.asarray`` converts). ``stride``, ``dilation`` and ``kernel_size`` are
(height, width); ``padding`` is ((top, bottom), (left, right)). Each public function checks nothing: it brings
its arguments into the blocked layout and launches one compiled task.
"""

from functools import wraps

from cnn.fast.kernels import few, few_joins, layout  # noqa: F401  as_blocked transposes with layout
from cnn.fast.kernels.activation import (
    elu_backward,
    elu_forward,
    gelu_backward,
    gelu_forward,
    hardsigmoid_backward,
    hardsigmoid_forward,
    hardswish_backward,
    hardswish_forward,
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
from cnn.fast.kernels.conv import (
    conv2d_backward_input,
    conv2d_backward_weight,
    conv2d_forward,
)
from cnn.fast.kernels.elementwise import (
    add,
    add_channel,
    channel_sum,
    concat,
    dropout_backward,
    dropout_forward,
    flatten,
    scale,
    split,
    unflatten,
)
from cnn.fast.kernels.global_pool import (
    global_avg_pool_backward,
    global_avg_pool_forward,
    global_max_pool_backward,
    global_max_pool_forward,
)
from cnn.fast.kernels.group_norm import (
    group_norm_backward,
    group_norm_forward,
)
from cnn.fast.kernels.hardtanh import (
    hardtanh_backward,
    hardtanh_forward,
)
from cnn.fast.kernels.images import (
    blacken_squares,
    cut_windows,
    flip_images,
    normalize_pixels,
    recolor_images,
    resample_images,
)
from cnn.fast.kernels.linear import (
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
)
from cnn.fast.kernels.local_response_norm import (
    local_response_norm_backward,
    local_response_norm_forward,
)
from cnn.fast.kernels.loss import (
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from cnn.fast.kernels.multiply import (
    multiply,
    multiply_backward,
)
from cnn.fast.kernels.norm import (
    batch_norm_backward,
    batch_norm_eval,
    batch_norm_forward,
    batch_norm_train,
)
from cnn.fast.kernels.orthogonal import (
    orthogonalize,
)
from cnn.fast.kernels.pool import (
    avg_pool2d_backward,
    avg_pool2d_forward,
    max_pool2d_backward,
    max_pool2d_forward,
)
from cnn.fast.kernels.prelu import (
    prelu_backward,
    prelu_forward,
)
from cnn.fast.kernels.resize import (
    pad2d_backward,
    pad2d_forward,
    upsample_nearest_backward,
    upsample_nearest_forward,
)
from cnn.fast.kernels.shared import (
    values_per_channel,
)
from cnn.fast.kernels.softmax import (
    log_softmax_backward,
    log_softmax_forward,
    softmax_backward,
    softmax_forward,
)
from cnn.fast.kernels.softplus import (
    softplus_backward,
    softplus_forward,
)
from cnn.fast.kernels.update import (
    adam_update,
    rmsprop_update,
    sgd_update,
    squared_norm,
)
from cnn.fast.lanes import Lanes

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


def _either(name):
    """Let an operation take Lanes as well: they go to its form for few images."""
    many, few_images = globals()[name], getattr(few, name)

    @wraps(many)
    def operation(x, *arguments, **options):
        return (few_images if type(x) is Lanes else many)(x, *arguments, **options)

    globals()[name] = operation


for _name in few.OPERATIONS:
    _either(_name)


def _joins(name):
    """Likewise for an operation of several arrays."""
    many, few_images = globals()[name], getattr(few_joins, name)

    @wraps(many)
    def operation(*arguments, **options):
        arrays = arguments[0] if isinstance(arguments[0], (list, tuple)) else arguments[:2]
        return (few_images if all(type(a) is Lanes for a in arrays) else many)(*arguments, **options)

    globals()[name] = operation


for _name in ("add", "concat", "multiply"):
    _joins(_name)
