"""RAFT: dense optical flow between two frames (Teed & Deng 2020), small and large.

Both frames become features on a grid of cells of 8 x 8 pixels. All pairs of cells are
correlated; a recurrent net looks up the correlations around where its flow points and
corrects the flow, again and again.

`RAFT()(image0, image1)` treats pairs; its method `bidirectional` a whole video, where
every frame is encoded once and serves all its pairs.

Memory. The correlations of a pair whose frames have n = h w / 64 cells take about
4 (n + n/4 + n/16 + n/64) n = 5.3 n^2 bytes: 0.35 MB at 128 x 128 pixels, 31 MB at
320 x 480, 1.1 GB at 720 x 1280. Where those of a batch exceed `RAFT.max_volume_bytes`
they are not kept: what is looked up is correlated anew in each update. That gives the
same numbers and takes 1.5 to 4 times as long on a CPU.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jax_vidpred.features.raft_weights import SIZES, parameter_shapes
from jax_vidpred.ops.conv import conv2d
from jax_vidpred.ops.image import space_to_depth

CELL = 8  # pixels
MIN_SIDE = 128  # pixels; below, the coarsest level has less than two cells
_LEVELS = 4

Features = Float[Array, "b i j d"]  # on the grid of cells
Flow = Float[Array, "b h w 2"]
Frames = Float[Array, "b h w 3"]


class RAFT(nn.Module):
    """The network. Frames are RGB in [-1, 1] of any size from 128 x 128 pixels on.

    Sizes that are no multiple of 8 are padded by their border, and the flow is cropped.

    Attributes:
      variant: "small" (990,162 parameters) or "large" (5.3 million).
      max_volume_bytes: the most that the correlations of a batch may take in memory.
    """

    variant: str = "small"
    max_volume_bytes: int = 2**30

    def setup(self):
        if self.variant not in SIZES:
            raise ValueError(f"RAFT variant {self.variant!r}: use small or large")
        self.sizes = SIZES[self.variant]
        weights = {
            part: self.param(part, _initial, shapes)
            for part, shapes in parameter_shapes(self.variant).items()
        }
        self.weights = jax.tree.map(jnp.asarray, weights)  # files give NumPy's

    def __call__(self, image0: Frames, image1: Frames, num_updates: int = 12) -> Flow:
        """Flow from image0 to image1: image1(p + flow(p)) shows what image0(p) shows.

        Args:
          image0, image1: in [-1, 1].
          num_updates: corrections of the flow.

        Returns:
          (x right, y down) in pixels, on the grid of image0. For the house convention
          (on the grid of the later frame, pointing back) image0 is the later frame.

        Raises:
          ValueError: the frames have less than 128 pixels a side, or differ in shape.
        """
        if image0.shape != image1.shape:
            raise ValueError(
                f"frames of {image0.shape} and {image1.shape}: RAFT wants the same size"
            )
        features0, features1 = self.features(image0), self.features(image1)
        flow = self.match(features0, self.context(image0), features1, num_updates)
        return _crop(flow, *image0.shape[1:3])

    def features(self, frames: Frames) -> Features:
        """What is correlated between frames."""
        return _encode(self.weights["feature_encoder"], _pad(frames), _instance_norm)

    def context(self, frames: Frames) -> Features:
        """What the updates know of the frame on whose grid the flow lives."""
        # Batch norm (of the large variant) is folded into the convolutions.
        return _encode(self.weights["context_encoder"], _pad(frames), lambda x: x)

    def match(
        self, features0: Features, context0: Features, features1: Features, num_updates
    ) -> Flow:
        """`__call__` for frames that are encoded, and before the padding is cropped."""
        flow, hidden = self.match_cells(features0, context0, features1, num_updates)
        if "mask" in self.weights:
            return _upsample_convex(flow, hidden, self.weights["mask"])
        return _upsample_bilinear(flow)

    def match_cells(
        self, features0: Features, context0: Features, features1: Features, num_updates
    ) -> tuple[Float[Array, "b i j 2"], Features]:
        """Flow in cells on the grid of cells, and the last hidden state."""
        weights, num_hidden = self.weights["update"], self.sizes.hidden
        hidden, context = jnp.split(context0, [num_hidden], -1)
        hidden, context = jnp.tanh(hidden), nn.relu(context)
        gates = [
            _gates(weights, f"gru{number}", num_hidden, context)
            for number in range(1, len(self.sizes.gru) + 1)
        ]
        pyramid = _pyramid(features1)
        others = sum(math.prod(level.shape[1:3]) for level in pyramid)
        num_bytes = 4 * math.prod(features0.shape[:3]) * others
        correlate = _all_pairs if num_bytes <= self.max_volume_bytes else _on_demand
        look_up = correlate(features0, pyramid, self.sizes.radius)
        here = _grid(features0.shape)

        def step(carry, _):
            hidden, flow = carry
            motion = _encode_motion(weights, look_up(here + flow), flow)
            for gate in gates:
                hidden = _gru(gate, hidden, motion)
            change = nn.relu(_convolve(hidden, weights["head1"]))
            return (hidden, flow + _convolve(change, weights["head2"])), None

        start = hidden, jnp.zeros_like(here)
        (hidden, flow), _ = lax.scan(step, start, length=num_updates)
        return flow, hidden

    def bidirectional(
        self, video: Float[Array, "t h w 3"], num_updates: int = 12, at_once: int = 4
    ) -> tuple[Float[Array, "s h w 2"], Float[Array, "s h w 2"]]:
        """Flow between all neighbours of a video, s = t - 1; each frame encoded once.

        Args:
          video: frames in [-1, 1].
          num_updates: corrections of the flow.
          at_once: frames that are encoded, and then pairs that are matched, at a time.

        Returns:
          forward: entry i lives on the grid of frame i and points to frame i + 1.
          backward: entry i lives on the grid of frame i + 1 and points back to frame i,
            the house convention. Both (x right, y down) in pixels.

        Raises:
          ValueError: there are less than two frames, or less than 128 pixels a side.
        """
        t, h, w, _ = video.shape
        if t < 2:
            raise ValueError(f"a video of {t} frames: flow wants at least 2")

        def encode(frame):
            return self.features(video[frame]), self.context(video[frame])

        def match(pair):
            here, there = pair
            encoded = features[here], context[here], features[there]
            return _crop(self.match(*encoded, num_updates), h, w)

        frames = jnp.arange(t)
        features, context = _in_batches(encode, frames, at_once)
        here = jnp.concatenate([frames[:-1], frames[1:]])
        there = jnp.concatenate([frames[1:], frames[:-1]])
        forward, backward = jnp.split(_in_batches(match, (here, there), at_once), 2)
        return forward, backward


def _initial(rng, shapes):
    """Random weights, He et al. 2015, for tests: real ones come from files."""
    leaves, tree = jax.tree.flatten(shapes)
    kernel = nn.initializers.he_normal()
    return tree.unflatten(
        kernel(key, leaf.shape) if len(leaf.shape) > 1 else jnp.zeros(leaf.shape)
        for key, leaf in zip(jax.random.split(rng, len(leaves)), leaves, strict=True)
    )


def _in_batches(function, indices, at_once):
    """`function` of arrays of indices, a few at a time, in one loop.

    Batches are of one size; the last repeats an index where there are too few.
    """
    count = len(jax.tree.leaves(indices)[0])
    batches = -(-count // at_once)
    order = jnp.arange(batches * -(-count // batches)).clip(max=count - 1)
    batched = jax.tree.map(lambda x: x[order].reshape(batches, -1), indices)
    results = lax.map(function, batched)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], results)


def _convolve(x, weights, stride=1):
    """Convolution as torch pads it: by half the kernel on every side."""
    kernel, bias = weights["kernel"], weights["bias"]
    if kernel.shape[:2] == (1, 1):
        y = x[:, ::stride, ::stride] @ kernel[0, 0]
    elif stride == 2 and kernel.shape[0] == 7:
        # Three channels are too few for a CPU: a third of the time with twelve.
        kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
        kernel = kernel.reshape(4, 2, 4, 2, *kernel.shape[2:])
        kernel = kernel.transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, -1, kernel.shape[-1])
        x = space_to_depth(jnp.pad(x, ((0, 0), (4, 2), (4, 2), (0, 0))), 2)
        y = conv2d(x, kernel, padding=((0, 0), (0, 0)))
    else:
        y = conv2d(x, kernel, stride, tuple((k // 2,) * 2 for k in kernel.shape[:2]))
    return y + jnp.broadcast_to(bias, y.shape)


def _instance_norm(x):
    x = x - jnp.mean(x, (1, 2), keepdims=True)
    return x * lax.rsqrt(jnp.mean(x**2, (1, 2), keepdims=True) + 1e-5)


def _encode(weights, x, normalise):
    """Residual blocks down to the grid of cells: two at each of 1/2, 1/4, 1/8 size."""
    x = nn.relu(normalise(_convolve(x, weights["conv1"], 2)))
    for name in (f"layer{level}_{block}" for level in (1, 2, 3) for block in (0, 1)):
        stride = 2 if f"{name}_downsample" in weights else 1
        layers = sorted(key for key in weights if key.startswith(f"{name}_conv"))
        # The first 3 x 3 kernel takes the stride: conv1, in bottlenecks conv2.
        strided = f"{name}_conv{len(layers) - 1}"
        y = x
        for layer in layers:
            y = _convolve(y, weights[layer], stride if layer == strided else 1)
            y = nn.relu(normalise(y))
        if stride > 1:
            x = normalise(_convolve(x, weights[f"{name}_downsample"], stride))
        x = nn.relu(x + y)
    return _convolve(x, weights["conv2"])


def _encode_motion(weights, correlation, flow):
    x = nn.relu(_convolve(correlation, weights["correlation1"]))
    if "correlation2" in weights:
        x = nn.relu(_convolve(x, weights["correlation2"]))
    y = nn.relu(_convolve(flow, weights["flow1"]))
    y = nn.relu(_convolve(y, weights["flow2"]))
    x = nn.relu(_convolve(jnp.concatenate([x, y], -1), weights["motion"]))
    return jnp.concatenate([x, flow], -1)


def _gates(weights, name, num_hidden, context):
    """Of z and r, and of q: kernels without the context, and what the context adds.

    The context is the same in all updates, and so is its part of each convolution.
    """
    end = num_hidden + context.shape[-1]

    def split(letters):
        gates = [weights[f"{name}_{letter}"] for letter in letters]
        kernel = jnp.concatenate([gate["kernel"] for gate in gates], -1)
        bias = jnp.concatenate([gate["bias"] for gate in gates])
        first, middle, last = jnp.split(kernel, [num_hidden, end], 2)
        constant = _convolve(context, {"kernel": middle, "bias": bias})
        return jnp.concatenate([first, last], 2), constant

    return split("zr"), split("q")


def _gru(gates, hidden, motion):
    (zr_kernel, zr_context), (q_kernel, q_context) = gates
    x = jnp.concatenate([hidden, motion], -1)
    z, r = jnp.split(nn.sigmoid(conv2d(x, zr_kernel) + zr_context), 2, -1)
    x = jnp.concatenate([r * hidden, motion], -1)
    return (1 - z) * hidden + z * jnp.tanh(conv2d(x, q_kernel) + q_context)


def _pyramid(features):
    """Averages over 1, 2, 4 and 8 cells a side; an odd last row is left out.

    Averaged features have averaged correlations, so these need no averaging.
    """
    levels = [features]
    for _ in range(_LEVELS - 1):
        b, h, w, d = levels[-1].shape
        even = levels[-1][:, : h // 2 * 2, : w // 2 * 2]
        levels.append(even.reshape(b, h // 2, 2, w // 2, 2, d).mean((2, 4)))
    return levels


def _all_pairs(features0, pyramid, radius):
    """The look-up, in correlations of all pairs that are computed here."""
    b, h, w, d = features0.shape
    features0 = features0.reshape(b, h * w, d) / math.sqrt(d)
    volumes = [jnp.einsum("bpd,bijd->bpij", features0, level) for level in pyramid]
    volumes = [volume.reshape(b * h * w, *volume.shape[2:]) for volume in volumes]

    def window(level, start, size):
        take = jax.vmap(lambda volume, at: lax.dynamic_slice(volume, at, size))
        return take(volumes[level], start)

    def look_up(centre):
        found = _look_up(window, pyramid, centre.reshape(-1, 2), radius)
        return found.reshape(b, h, w, -1)

    return look_up


def _on_demand(features0, pyramid, radius):
    """The look-up, which correlates what it looks at, one row of cells at a time."""
    b, h, w, d = features0.shape
    rows = features0.reshape(b * h, w, d) / math.sqrt(d)

    def look_up_row(row):
        image, features, centre = row

        def window(level, start, size):
            def take(first):
                at = (image, *first, 0)
                return lax.dynamic_slice(pyramid[level], at, (1, *size, d))[0]

            return jnp.einsum("pd,pijd->pij", features, jax.vmap(take)(start))

        return _look_up(window, pyramid, centre, radius)

    def look_up(centre):
        inputs = jnp.arange(b * h) // h, rows, centre.reshape(b * h, w, 2)
        return lax.map(look_up_row, inputs).reshape(b, h, w, -1)

    return look_up


def _look_up(window, pyramid, centre, radius):
    """Bilinear samples at all whole offsets up to `radius`, on every level; [p, k].

    Per level the offsets run with x as the slow one. All samples of a cell lie in one
    window; `window(level, start [p, 2], size)` gives its correlations [p, i, j]. It is
    kept inside the level: what it then misses is outside, where correlations are 0.
    """
    found = []
    for level, (_, h, w, _) in enumerate(x.shape for x in pyramid):
        at = centre[:, ::-1] / 2**level  # row, column
        size = min(2 * radius + 2, h), min(2 * radius + 2, w)
        last = h - size[0], w - size[1]
        start = jnp.floor(at).astype(jnp.int32) - radius
        start = jnp.clip(start, 0, jnp.broadcast_to(jnp.array(last), start.shape))
        values = window(level, start, size)
        places = (at - start)[..., None] + jnp.arange(-radius, radius + 1)[None, None]
        down, across = (_hat(places[:, i], n) for i, n in enumerate(size))
        # Sums of products: as matrix products these are too small to be fast.
        rows = jnp.sum(down[:, :, :, None] * values[:, None], 2)
        samples = jnp.sum(across[:, :, None] * rows[:, None], 3)
        found.append(samples.reshape(len(at), -1))
    return jnp.concatenate(found, -1)


def _hat(places, size):
    """Weights [..., size] that sample linearly at `places`; 0 outside 0 .. size - 1."""
    cells = lax.broadcasted_iota(places.dtype, (*places.shape, size), places.ndim)
    return jnp.maximum(0, 1 - jnp.abs(places[..., None] - cells))


def _grid(shape):
    """Column and row of every cell, [b, h, w, 2]."""
    b, h, w, _ = shape
    y, x = jnp.mgrid[:h, :w].astype(jnp.float32)
    return jnp.broadcast_to(jnp.stack([x, y], -1)[None], (b, h, w, 2))


def _upsample_bilinear(flow):
    """Cells to pixels, corner on corner."""
    down, across = (
        _hat(jnp.arange(CELL * n) * ((n - 1) / (CELL * n - 1)), n)
        for n in flow.shape[1:3]
    )
    return jnp.einsum("yi,xj,bijc->byxc", down, across, CELL * flow)


def _upsample_convex(flow, hidden, weights):
    """Cells to pixels: each a convex combination of 3 x 3 cells (appendix B)."""
    b, h, w, _ = flow.shape
    mask = nn.relu(_convolve(hidden, weights["conv1"]))
    # The factor is part of the published training.
    mask = 0.25 * _convolve(mask, weights["conv2"])
    mask = nn.softmax(mask.reshape(b, h, w, 9, CELL, CELL), 3)
    padded = jnp.pad(CELL * flow, ((0, 0), (1, 1), (1, 1), (0, 0)))
    cells = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    flow = jnp.einsum("bijkyx,bijkc->biyjxc", mask, jnp.stack(cells, 3))
    return flow.reshape(b, CELL * h, CELL * w, 2)


def _margins(side: int) -> tuple[int, int]:
    """Pixels that are added before and after, to whole cells."""
    return -side % CELL // 2, (-side % CELL + 1) // 2


def _pad(frames):
    h, w = frames.shape[1:3]
    if min(h, w) < MIN_SIDE:
        raise ValueError(
            f"frames of {h}x{w} pixels: RAFT wants at least {MIN_SIDE}x{MIN_SIDE};"
            " enlarge them, and scale the flow back"
        )
    return jnp.pad(frames, ((0, 0), _margins(h), _margins(w), (0, 0)), mode="edge")


def _crop(flow, h, w):
    top, left = _margins(h)[0], _margins(w)[0]
    return flow[:, top : top + h, left : left + w]
