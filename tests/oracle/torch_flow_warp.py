"""The mathematics of the three training phases written again in PyTorch.

The oracle that numbers and speed are compared with: plain functions of tensors and of
parameters that `to_torch` copies from the Flax tree. Activations are [b, c, h, w].
Random draws are arguments, so that both sides can be given the same.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F

STATE_SCALE = 3.0
MOVING = 0.05
CHANGED = 0.3


# --- parameters -------------------------------------------------------------------


def tensor(array):
    """A tensor; numbers that are not whole get torch's default type."""
    value = torch.from_numpy(np.array(array))
    return value.to(torch.get_default_dtype()) if value.is_floating_point() else value


def to_torch(tree, memory_format=torch.contiguous_format, path=()):
    """Tensors in torch's layout from a Flax tree of parameters (or gradients)."""
    if isinstance(tree, dict):
        return {k: to_torch(v, memory_format, (*path, k)) for k, v in tree.items()}
    value = tensor(tree)
    # Sub-pixel convolutions: (row, column, channel) -> (channel, row, column).
    enlarges = path[-3:-2] == ("decoder",) and path[-2].startswith("Conv_")
    if enlarges and path[-2] != "Conv_0":
        value = value.unflatten(-1, (4, -1)).transpose(-1, -2).flatten(-2)
    if value.ndim == 4:
        value = value.permute(3, 2, 0, 1).contiguous(memory_format=memory_format)
    return value.contiguous() if value.ndim < 4 else value


def leaves(tree):
    """All tensors of a tree, in the order of names."""
    if isinstance(tree, dict):
        return [leaf for k in sorted(tree) for leaf in leaves(tree[k])]
    return [tree]


def images(video, memory_format=torch.contiguous_format):
    """uint8 [b, t, h, w, 3] -> float [b * t, 3, h, w] in [0, 1]."""
    flat = tensor(video).flatten(0, 1).permute(0, 3, 1, 2)
    return (flat.to(torch.get_default_dtype()) / 255).contiguous(
        memory_format=memory_format
    )


# --- networks ---------------------------------------------------------------------


def conv(p, x, stride=1):
    k = p["kernel"].shape[-1]
    padding = k // 2 if stride == 1 else (k - stride) // 2
    return F.conv2d(x, p["kernel"], p["bias"], stride, padding)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def residual_block(p, x):
    return x + conv(p["Conv_1"], F.silu(conv(p["Conv_0"], F.silu(x))))


def numbered(p, name):
    found = [k for k in p if k.startswith(name + "_")]
    return [p[f"{name}_{k}"] for k in range(len(found))]


def encode(p, x):
    """Mean and clipped log-variance."""
    p = p["encoder"]
    *strided, last = numbered(p, "Conv")
    for level, one in enumerate(strided):
        x = conv(one, F.silu(x) if level else x, 2)
    for block in numbered(p, "ResidualBlock"):
        x = residual_block(block, x)
    mean, logvar = conv(last, F.silu(x)).chunk(2, 1)
    return mean, logvar.clamp(-12, 4)


def decode(p, z):
    p = p["decoder"]
    first, *enlarging = numbered(p, "Conv")
    blocks = numbered(p, "ResidualBlock")
    each = len(blocks) // len(enlarging)
    x = conv(first, z)
    for level, one in enumerate(enlarging):
        for block in blocks[level * each : (level + 1) * each]:
            x = residual_block(block, x)
        x = F.pixel_shuffle(conv(one, F.silu(x)), 2)
    return x + 0.5


def moments(p):
    """Mean and deviation of the latents [c, 1, 1], constants of training."""
    mean, variance = p["latent_mean"].detach(), p["latent_variance"].detach()
    return mean[:, None, None], torch.sqrt(variance + 1e-6)[:, None, None]


def scaled(p, latent):
    mean, deviation = moments(p)
    return (latent - mean) / deviation


def decode_scaled(p, latent):
    mean, deviation = moments(p)
    return decode(p["net"], latent * deviation + mean)


def head(p, x):
    return conv(p["Conv_1"], F.silu(conv(p["Conv_0"], x)))


def warp(image, flow, reach):
    h, w = image.shape[2:]
    if reach:
        flow = flow.clamp(-reach, reach)
    x = torch.arange(w, dtype=flow.dtype) + flow[:, 0]
    y = torch.arange(h, dtype=flow.dtype)[:, None] + flow[:, 1]
    grid = torch.stack([2 * x / (w - 1) - 1, 2 * y / (h - 1) - 1], -1)
    return F.grid_sample(image, grid, padding_mode="border", align_corners=True)


def roll_out(p, latents, use_truth, reach):
    """Dict of what each step says, [k, b, ...]; latents [b, k, c, h, w]."""
    b, steps, _, h, w = latents.shape
    d = p["embed"]["bias"].shape[0]
    cell = hidden = latents.new_zeros(b, d, h, w)
    if latents[:, 0].is_contiguous(memory_format=torch.channels_last):
        cell = hidden = cell.contiguous(memory_format=torch.channels_last)
    previous = predicted = latents[:, 0]
    said = []
    for k in range(steps):
        latent = torch.where(
            use_truth[:, k, None, None, None], latents[:, k], predicted
        )
        x = conv(p["embed"], torch.cat([latent, latent - previous], 1))
        for block in numbered(p, "blocks"):
            x = residual_block(block, x)
        gates = conv(p["cell"]["gates"], torch.cat([F.silu(x), hidden], 1))
        i, f, g, o = gates.chunk(4, 1)
        cell = torch.sigmoid(f + 1) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        flow = head(p["flow_head"], hidden)
        warped = warp(latent, flow, reach)
        logit = head(p["visible_head"], hidden)
        residual = head(p["residual_head"], torch.cat([warped, hidden], 1))
        predicted = torch.sigmoid(logit) * warped + residual
        previous = latent
        said.append((predicted, warped, flow, logit, residual, hidden))
    names = ("latent", "warped", "flow", "visible_logit", "residual", "hidden")
    return dict(zip(names, map(list, zip(*said, strict=True)), strict=True))


def collision_logit(p, x):
    x = F.silu(conv(p["Conv_1"], F.silu(conv(p["Conv_0"], x))))
    return conv(p["Conv_2"], x).flatten(1).amax(1)


def objects(p, x):
    """Presence logits [b, n] and states [b, n, d] of the slots."""
    b, _, h, w = x.shape
    x = F.silu(conv(p["Conv_0"], x)).permute(0, 2, 3, 1).flatten(1, 2)
    attention = torch.softmax(dense(p["Dense_0"], x), 1)
    y, x_ = torch.meshgrid(
        torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij"
    )
    place = torch.stack([x_, y], -1).flatten(0, 1).expand(b, -1, -1)
    slots = attention.transpose(1, 2) @ torch.cat([x, place], -1)
    out = dense(p["Dense_2"], F.silu(dense(p["Dense_1"], slots)))
    return out[..., 0], out[..., 1:]


# --- losses -----------------------------------------------------------------------


def vae_loss(net, frames, noise, weights, factor=1.0):
    """L1 + KL of frames [b, 3, h, w]; also the mean latents."""
    mean, logvar = encode(net, frames)
    again = decode(net, mean + torch.exp(logvar / 2) * noise)
    divergence = 0.5 * (mean**2 + torch.exp(logvar) - 1 - logvar).mean()
    total = weights["l1"] * (again - frames).abs().mean()
    return total + factor * weights["kl"] * divergence, mean


def over_steps(values, steps):
    return (values * steps).sum(1) / steps.sum(1).clamp(min=1e-6)


def balanced(distance, chosen, steps):
    """Mean of [b, k, h, w] over chosen cells and over the others, each one half."""

    def mean(cells):
        weight = cells * steps[:, :, None, None]
        total = weight.sum((1, 2, 3)).clamp(min=1e-6)
        return (distance * weight).sum((1, 2, 3)) / total

    return 0.5 * (mean(chosen) + mean(~chosen))


def flow_error(flow, target, steps):
    distance = torch.sqrt(((flow - target) ** 2).sum(2) + 1e-6) - 1e-3
    return balanced(distance, target.norm(dim=2) > MOVING, steps)


def visibility_loss(logit, visible):
    loss = F.binary_cross_entropy_with_logits(logit, visible, reduction="none")
    v = visible.clamp(1e-6, 1 - 1e-6)
    floor = -(v * torch.log(v) + (1 - v) * torch.log1p(-v))
    return (loss - floor).mean((2, 3, 4))


def collision_loss(logit, collision, tolerance, alpha, gamma):
    near = F.max_pool1d(
        (collision > 0).to(torch.get_default_dtype())[:, None],
        2 * tolerance + 1,
        1,
        tolerance,
    )[:, 0]
    entropy = F.binary_cross_entropy_with_logits(logit, near, reduction="none")
    p = torch.sigmoid(logit)
    right = p * near + (1 - p) * (1 - near)
    share = alpha * near + (1 - alpha) * (1 - near)
    return share * (1 - right) ** gamma * entropy


def state_loss(logit, state, target, present):
    n = state.shape[2]
    here = present[:, :, None, :].expand(*present.shape[:2], n, n)
    distance = (state[:, :, :, None] - target[:, :, None]).abs().mean(-1)
    presence = F.binary_cross_entropy_with_logits(
        logit[..., None].expand_as(here),
        here.to(torch.get_default_dtype()),
        reduction="none",
    )
    cost = torch.where(here, distance, 0.0) + presence
    orders = torch.tensor(list(itertools.permutations(range(n))))
    chosen = F.one_hot(orders, n).flatten(1).to(torch.get_default_dtype())
    return (cost.flatten(2) @ chosen.T).min(-1).values / n


def temporal_loss(params, batch, draws, config, *, train_vae=False):
    """The objective of phases 2 and 3.

    Args:
      params: "vae" and "temporal".
      batch: NumPy arrays as the data pipeline gives them.
      draws: use_truth [b, k], steps [b, k], chosen [m], and for phase 3 noise.
      config: with the sections system, model and losses.
      train_vae: phase 3.
    """
    system, losses = config["system"], config["losses"]
    weights = losses["weights"]
    memory_format = draws.get("memory_format", torch.contiguous_format)
    b, t = batch["video"].shape[:2]
    frames = images(batch["video"], memory_format)
    with torch.set_grad_enabled(train_vae):
        latents = scaled(params["vae"], encode(params["vae"]["net"], frames)[0])
        latents = latents.unflatten(0, (b, t))
    p, steps = params["temporal"], draws["steps"]
    said = roll_out(p, latents[:, :-1], draws["use_truth"], config["model"]["reach"])
    following = latents[:, 1:].detach()
    stacked = {k: torch.stack(v, 1) for k, v in said.items() if k != "hidden"}
    hidden = torch.stack(said["hidden"], 1).flatten(0, 1)
    given = {
        k: tensor(batch[k])
        for k in ("flow", "visible", "collision", "state", "present")
    }

    def masked_l1(prediction, target, counts):
        distance = (prediction - target).abs().mean((2, 3, 4))
        return over_steps(distance, counts).mean()

    visible = given["visible"].permute(0, 1, 4, 2, 3)
    flow = given["flow"].permute(0, 1, 4, 2, 3)
    seen = latents[:, system["num_context"] - 1, None].detach()
    changed = (following - seen).abs().mean(2) > CHANGED
    distance = (stacked["latent"] - following).abs().mean(2)
    terms = {"latent": balanced(distance, changed, steps).mean()}
    terms["flow"] = flow_error(stacked["flow"], flow, steps).mean()
    terms["visible"] = over_steps(
        visibility_loss(stacked["visible_logit"], visible), steps
    ).mean()
    if weights["residual"]:
        moved = warp(
            latents[:, :-1].detach().flatten(0, 1), flow.flatten(0, 1), 0
        ).unflatten(0, (b, t - 1))
        terms["residual"] = masked_l1(
            stacked["residual"], following - visible * moved, steps
        )
    if weights["collision"]:
        logit = collision_logit(p["collision_head"], hidden).unflatten(0, (b, t - 1))
        loss = collision_loss(
            logit, given["collision"], losses["collision_tolerance"], **losses["focal"]
        )
        terms["collision"] = over_steps(loss, steps).mean()
    if weights["state"]:
        logit, state = objects(p["state_head"], hidden)
        loss = state_loss(
            logit.unflatten(0, (b, t - 1)),
            state.unflatten(0, (b, t - 1)),
            given["state"][:, 1:] / STATE_SCALE,
            given["present"][:, 1:],
        )
        terms["state"] = over_steps(loss, steps).mean()
    chosen = draws["chosen"]
    truth = frames.unflatten(0, (b, t))[:, 1:][:, chosen]
    for name, latent in (("warped", "warped"), ("decoded", "latent")):
        if weights[name]:
            some = stacked[latent][:, chosen].flatten(0, 1)
            again = decode_scaled(params["vae"], some).unflatten(0, (b, -1))
            terms[name] = masked_l1(again, truth, steps[:, chosen])
    total = sum(weights[name] * value for name, value in terms.items() if weights[name])
    if train_vae:
        loss, _ = vae_loss(
            params["vae"]["net"], frames, draws["noise"], draws["vae_weights"]
        )
        total = total + system["vae_loss_weight"] * loss
    return total


# --- one training step ------------------------------------------------------------


class Trainer:
    """Clipping, Adam and the moving average around a loss, as users of torch do it."""

    def __init__(self, params, loss, *, learning_rate, clip_norm, ema_decay):
        self.leaves = [leaf.requires_grad_() for leaf in leaves(params)]
        self.loss, self.clip_norm, self.decay = loss, clip_norm, ema_decay
        self.optimizer = torch.optim.Adam(self.leaves, learning_rate, fused=True)
        self.ema = [leaf.detach().clone() for leaf in self.leaves]

    def step(self):
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.leaves, self.clip_norm)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.leaves, 1 - self.decay)
        return loss.item()
