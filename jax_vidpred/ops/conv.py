"""2-D convolutions whose gradients are fast on every backend.

Left to itself, XLA's CPU backend spends most of a training step in gradients of
convolutions: a weight gradient contracts over the whole batch at once and falls out of
the cache (a fifth of the forward pass's speed from 64 frames on); inside a while loop
(`lax.scan`) and for strided transposed convolutions it runs on a generic path that is
35 to 100 times slower; and the input gradient of a strided convolution multiplies by
the zeros between its strides. So, on a CPU:

- gradients are written out, their transposes materialised by an optimisation barrier
  (folded into the convolution, they are what selects the generic path);
- a weight gradient is summed over a few images at a time;
- a stride moves into the channels (space to depth) and the gradient has stride 1.

The numbers agree to float32 rounding.

Layout everywhere: activations NHWC, kernels HWIO (height, width, in, out).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jax_vidpred.ops.image import depth_to_space, space_to_depth

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_VALID = ((0, 0), (0, 0))
_LANES = 16  # float32 numbers of a vector register
_IMAGES = 8  # that a weight gradient takes at a time
Padding = tuple[tuple[int, int], tuple[int, int]]


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
    if stride == 1:
        return _conv_cpu(x, kernel, padding)
    if any(k % stride for k in kernel.shape[:2]):
        return _conv(x, kernel, stride, padding)
    return _conv_strided_cpu(x, kernel, stride, padding)


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
    kh, kw = kernel.shape[:2]
    if jax.default_backend() != "cpu" or kh % stride or kw % stride:
        return _conv_transpose(x, kernel, stride, padding)
    # The adjoint, step by step, of what `conv2d` does with the mirrored kernel.
    folded = _mirrored(_folded(_mirrored(kernel), stride))
    y = _conv_cpu(x, folded, tuple((k - 1,) * 2 for k in folded.shape[:2]))
    y = depth_to_space(y, stride)
    h, w = y.shape[1:3]
    return y[:, padding : h - padding, padding : w - padding]


def _same(size: int, stride: int) -> tuple[int, int]:
    total = max(size - stride, 0)
    return (total // 2, total - total // 2) if stride > 1 else (size // 2, size // 2)


def _conv(x, kernel, stride, padding, dtype=None):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=_LAYOUT,
        preferred_element_type=dtype,
    )


def _conv_transpose(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        [(k - 1 - padding,) * 2 for k in kernel.shape[:2]],
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )


def _mirrored(kernel):
    """The kernel of the adjoint: turned by half a turn, in and out exchanged."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _folded(kernel, stride):
    """The kernel that acts on `space_to_depth(x, stride)` with stride 1."""
    kh, kw, c, d = kernel.shape
    blocks = kernel.reshape(kh // stride, stride, kw // stride, stride, c, d)
    return blocks.transpose(0, 2, 1, 3, 4, 5).reshape(kh // stride, kw // stride, -1, d)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv_cpu(x, kernel, padding):
    return _conv(x, kernel, 1, padding)


def _conv_cpu_forward(x, kernel, padding):
    return _conv(x, kernel, 1, padding), (x, kernel)


def _conv_cpu_backward(padding, saved, dy):
    x, kernel = saved
    pads = [
        (k - 1 - before, k - 1 - after)
        for k, (before, after) in zip(kernel.shape[:2], padding, strict=True)
    ]
    dx = _conv(dy, lax.optimization_barrier(_mirrored(kernel)), 1, pads)
    if kernel.shape[3] < min(kernel.shape[2], _LANES):
        # Few channels leave vector registers empty: exchange the operands.
        swapped = _sum_over_images(dy, x, pads)
        dkernel = swapped[:, ::-1, ::-1].transpose(1, 2, 3, 0)
    else:
        dkernel = _sum_over_images(x, dy, padding).transpose(1, 2, 0, 3)
    return dx, dkernel.astype(kernel.dtype)


_conv_cpu.defvjp(_conv_cpu_forward, _conv_cpu_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv_strided_cpu(x, kernel, stride, padding):
    return _conv(x, kernel, stride, padding)


def _conv_strided_cpu_forward(x, kernel, stride, padding):
    return _conv(x, kernel, stride, padding), (x, kernel)


def _conv_strided_cpu_backward(stride, padding, saved, dy):
    def folded(x, kernel):
        # Rows and columns that no window reaches are cut off: whole blocks remain.
        pads = [
            (before, after - (size + before + after) % stride, 0)
            for size, (before, after) in zip(x.shape[1:3], padding, strict=True)
        ]
        x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
        return _conv_cpu(space_to_depth(x, stride), _folded(kernel, stride), _VALID)

    return jax.vjp(folded, *saved)[1](dy)


_conv_strided_cpu.defvjp(_conv_strided_cpu_forward, _conv_strided_cpu_backward)


def _sum_over_images(image, window, padding):
    """[c, i, j, d]: sum over b, y, x of image[b, y + i, x + j, c] window[b, y, x, d].

    It is the convolution whose feature is the batch, taken a few images of each device
    at a time: a batch is dealt to devices in its order, so a group takes images from
    all over it. Groups of neighbours would be the work of one device after the other.
    The sum is taken in float32 at least, whatever the operands are.
    """
    wide = jnp.promote_types(image.dtype, jnp.float32)

    def convolve(image, window):
        return _conv(
            lax.optimization_barrier(image.transpose(3, 1, 2, 0)),
            lax.optimization_barrier(window.transpose(1, 2, 0, 3)),
            1,
            padding,
            wide,
        )

    batch, devices = image.shape[0], jax.device_count()
    sizes = [n for n in range(1, devices * _IMAGES + 1) if batch % n == 0]
    images = max(sizes, key=lambda n: (n % devices == 0, n))
    if images == batch:
        return convolve(image, window)
    groups = [x.reshape(images, -1, *x.shape[1:]) for x in (image, window)]

    def add(total, index):
        return total + convolve(*(x[:, index] for x in groups)), None

    shape = jax.eval_shape(convolve, *(x[:, 0] for x in groups))
    total = jnp.zeros(shape.shape, shape.dtype)
    return lax.scan(add, total, jnp.arange(batch // images))[0]
