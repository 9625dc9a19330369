"""Which operators autocast changes on a device, and how: torch's
`aten/src/ATen/autocast_mode.{h,cpp}`.

torch itself is asked which operators take part; those named here have a rule of their own, the
others run in float32. `tests/test_overrides.py` compares the lists with torch's header and with
what real autocast does.
"""

from functools import cache

import torch

LISTS = {"cuda": "AutocastCUDA", "cpu": "AutocastCPU"}
"""Device -> the dispatch key under which torch has its kernels."""
_COMMON_LOWER = """
    _convolution.deprecated addbmm addmm baddbmm bmm conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d.input
    conv_transpose3d.input linalg_vecdot linear matmul mm prelu scaled_dot_product_attention
"""  # noqa: E501
_CPU_LOWER = (
    "_addmm_activation _native_multi_head_attention conv1d.padding conv2d.padding conv3d.padding"
    " mkldnn_rnn_layer"
)
_CUDA_LOWER = """
    _convolution _scaled_dot_product_flash_attention _thnn_fused_gru_cell _thnn_fused_lstm_cell addmv addr chain_matmul
    convolution cudnn_convolution cudnn_convolution_transpose einsum gru_cell linalg_multi_dot lstm_cell mv rnn_relu_cell
    rnn_tanh_cell
"""  # noqa: E501
_CUDA_PROMOTED = (
    "addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot vdot"
)
_CUDA_FLOAT_RESULT = """
    cumprod cumsum linalg_matrix_norm linalg_matrix_norm.str_ord linalg_vector_norm log_softmax.int prod prod.dim_int softmax.int
    sum sum.dim_IntList
"""  # noqa: E501
LOWER = {
    "cpu": frozenset((_COMMON_LOWER + _CPU_LOWER).split()),
    "cuda": frozenset((_COMMON_LOWER + _CUDA_LOWER).split()),
}
"""Operators that run in bfloat16."""
PROMOTED = {
    "cpu": frozenset({"cat", "index_copy", "stack"}),
    "cuda": frozenset(_CUDA_PROMOTED.split()),
}
"""Operators that run in the widest dtype among their inputs."""
FLOAT_RESULT = {"cpu": frozenset[str](), "cuda": frozenset(_CUDA_FLOAT_RESULT.split())}
"""Operators that read what they get and, unless told otherwise, give float32."""
REFUSED = frozenset({"_cudnn_rnn", "binary_cross_entropy", "norm.Scalar", "norm.ScalarOpt_dim"})
"""Operators that torch refuses under autocast, or runs by a rule of their own that no model needs.
Only a build with cuDNN has `_cudnn_rnn` (`autocast_mode/autocast_RNN.cpp`)."""


@cache
def operators(device: str) -> tuple[str, ...]:
    """The operators that autocast changes on `device`, as torch has registered them."""
    names = torch._C._dispatch_get_all_op_names()
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return tuple(
        sorted(
            n.removeprefix("aten::")
            for n in names
            if n.startswith("aten::") and has(n, LISTS[device])
        )
    )
