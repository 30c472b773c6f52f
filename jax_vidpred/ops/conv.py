"""2-D convolutions whose gradients are fast on every backend.

XLA's CPU backend runs two gradients on a slow generic path: those of every convolution
inside a while loop (`lax.scan`, about 35 times slower) and the weight gradient of a
strided transposed convolution (about 100 times). Both come from transposes that are
folded into the convolution. There the gradients below are written out with the
transposes materialised by an optimisation barrier; elsewhere the ordinary derivative is
the fastest. Few channels leave vector registers empty there: those of a strided
convolution's input (images) are made more by folding columns into channels, and the
weight gradient of few output channels (heads) is computed with its operands swapped.
The numbers agree to float32 rounding.

Layout everywhere: activations NHWC, kernels HWIO (height, width, in, out).
"""

import contextlib
import contextvars
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

_LAYOUT = ("NHWC", "HWIO", "NHWC")
Padding = tuple[tuple[int, int], tuple[int, int]]
_in_loop = contextvars.ContextVar("in_loop", default=False)
_LANES = 16  # float32 numbers of a vector register


@contextlib.contextmanager
def inside_loop():
    """Marks the tracing of a loop's body, so that convolutions take the form for it.

    Changes the speed on a CPU, never the result.
    """
    token = _in_loop.set(True)
    try:
        yield
    finally:
        _in_loop.reset(token)


def conv2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    stride: int = 1,
    padding: Padding | None = None,
) -> Float[Array, "b h2 w2 d"]:
    """Cross-correlates `x` with `kernel`.

    Args:
      x: activations.
      kernel: weights.
      stride: step in both directions.
      padding: ((top, bottom), (left, right)); None pads so that stride 1 keeps the size
        (odd kernels) and stride s divides it by s.
    """
    if padding is None:
        padding = tuple(_same(k, stride) for k in kernel.shape[:2])
    if jax.default_backend() != "cpu":
        return _conv(x, kernel, stride, padding)
    if _in_loop.get() or _is_head(kernel, stride):
        return _conv_cpu(x, kernel, stride, padding)
    if _can_fold(x, kernel, stride, padding):
        return _conv_folded(x, kernel, stride, padding)
    return _conv(x, kernel, stride, padding)


def conv_transpose2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c d"],
    stride: int = 2,
    padding: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Transposed convolution, size (h - 1) * stride - 2 * padding + kh.

    The kernel is stored flipped against torch.nn.ConvTranspose2d:
    `kernel[i, j] == torch_weight[:, :, kh - 1 - i, kw - 1 - j]`.
    """
    if jax.default_backend() == "cpu":
        return _conv_transpose_cpu(x, kernel, stride, padding)
    return _conv_transpose(x, kernel, stride, padding)


def _same(size: int, stride: int) -> tuple[int, int]:
    total = max(size - stride, 0)
    return (total // 2, total - total // 2) if stride > 1 else (size // 2, size // 2)


def _conv(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_LAYOUT
    )


def _is_head(kernel, stride):
    return stride == 1 and kernel.shape[3] < min(kernel.shape[2], _LANES)


def _can_fold(x, kernel, stride, padding):
    columns = x.shape[2] + sum(padding[1])
    few = stride > 1 and x.shape[3] * stride < _LANES
    return few and kernel.shape[1] % stride == 0 and columns % stride == 0


def _conv_folded(x, kernel, stride, padding):
    """`_conv` with `stride` neighbouring columns as one of more channels."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    kh, kw, c, d = kernel.shape
    b, h, w, _ = x.shape
    return lax.conv_general_dilated(
        x.reshape(b, h, w // stride, stride * c),
        kernel.reshape(kh, kw // stride, stride * c, d),
        (stride, 1),
        "VALID",
        dimension_numbers=_LAYOUT,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_cpu(x, kernel, stride, padding):
    return _conv(x, kernel, stride, padding)


def _conv_cpu_forward(x, kernel, stride, padding):
    return _conv(x, kernel, stride, padding), (x, kernel)


def _conv_cpu_backward(stride, padding, saved, dy):
    x, kernel = saved
    kh, kw = kernel.shape[:2]
    h, w = x.shape[1:3]
    (top, _), (left, _) = padding
    # What remains below and right once the strided output has been dilated back.
    ih, iw = (dy.shape[1] - 1) * stride + 1, (dy.shape[2] - 1) * stride + 1
    flipped = lax.optimization_barrier(kernel[::-1, ::-1].swapaxes(2, 3))
    dx = lax.conv_general_dilated(
        dy,
        flipped,
        (1, 1),
        ((kh - 1 - top, h - ih + top), (kw - 1 - left, w - iw + left)),
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )
    if _is_head(kernel, stride):
        return dx, _head_kernel_gradient(x, dy, kernel.shape, padding)
    rows = (top, ih + kh - 1 - h - top, 0)
    columns = (left, iw + kw - 1 - w - left, 0)
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))
    # Batch becomes the contracted feature, channels the batch: an ordinary convolution.
    dkernel = lax.conv_general_dilated(
        lax.optimization_barrier(padded.transpose(3, 1, 2, 0)),
        lax.optimization_barrier(dy.transpose(1, 2, 0, 3)),
        (1, 1),
        "VALID",
        rhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )
    return dx, dkernel.transpose(1, 2, 0, 3)


def _head_kernel_gradient(x, dy, shape, padding):
    """The same with `x` as kernel and `dy` as image: features are then those of `x`."""
    pads = [
        (k - 1 - before, k - 1 - after)
        for k, (before, after) in zip(shape[:2], padding, strict=True)
    ]
    mirrored = lax.conv_general_dilated(
        lax.optimization_barrier(dy.transpose(3, 1, 2, 0)),
        lax.optimization_barrier(x.transpose(1, 2, 0, 3)),
        (1, 1),
        pads,
        dimension_numbers=_LAYOUT,
    )
    return mirrored[:, ::-1, ::-1].transpose(1, 2, 3, 0)


_conv_cpu.defvjp(_conv_cpu_forward, _conv_cpu_backward)


def _conv_transpose(x, kernel, stride, padding):
    kh, kw = kernel.shape[:2]
    pads = ((kh - 1 - padding,) * 2, (kw - 1 - padding,) * 2)
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        pads,
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_transpose_cpu(x, kernel, stride, padding):
    return _conv_transpose(x, kernel, stride, padding)


def _conv_transpose_cpu_forward(x, kernel, stride, padding):
    return _conv_transpose(x, kernel, stride, padding), (x, kernel)


def _conv_transpose_cpu_backward(stride, padding, saved, dy):
    # The transposed convolution is the input gradient of a strided convolution with
    # the mirrored kernel, so its gradients are that convolution's output and weight's.
    x, kernel = saved
    mirrored = kernel[::-1, ::-1].swapaxes(2, 3)
    pads = ((padding, padding), (padding, padding))
    dx, vjp = jax.vjp(lambda d, k: _conv_cpu(d, k, stride, pads), dy, mirrored)
    return dx, vjp(x)[1][::-1, ::-1].swapaxes(2, 3)


_conv_transpose_cpu.defvjp(_conv_transpose_cpu_forward, _conv_transpose_cpu_backward)
