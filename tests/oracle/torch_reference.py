"""The PyTorch reference's networks, written again from what is known of them.

Names and shapes of the parameters are those of its checkpoints, so `state_dict()` gives
what such a file holds. Frames and latents are [b, c, h, w].
"""

import torch
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    """Layers under the name `net`, as most parts of the reference have them."""

    def __init__(self, *layers):
        super().__init__()
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x)


class VAE(nn.Module):
    def __init__(self, c_z=32):
        super().__init__()
        down = {"kernel_size": 4, "stride": 2, "padding": 1}
        self.encoder = Net(
            nn.Conv2d(3, 32, **down),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, **down),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 2 * c_z, **down),
        )
        self.decoder = Net(
            nn.ConvTranspose2d(c_z, 64, **down),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, **down),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, **down),
            nn.Sigmoid(),
        )

    def encode(self, frames):
        """Mean and log-variance."""
        return self.encoder(frames).chunk(2, 1)

    def decode(self, latents):
        return self.decoder(latents)


class Gates(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gates = nn.Conv2d(2 * width, 4 * width, 3, padding=1)

    def forward(self, x, hidden, cell):
        gates = self.gates(torch.cat([x, hidden], 1)).chunk(4, 1)
        i, f, o = (torch.sigmoid(gates[k]) for k in (0, 1, 3))
        cell = f * cell + i * torch.tanh(gates[2])
        return o * torch.tanh(cell), cell


def convs(inputs, width, outputs):
    first = nn.Conv2d(inputs, width, 3, padding=1)
    return Net(first, nn.ReLU(), nn.Conv2d(width, outputs, 3, padding=1))


def linears(inputs, width, outputs):
    return Net(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))


class Temporal(nn.Module):
    def __init__(self, c_z=32, c_lstm=64, n_max=6):
        super().__init__()
        self.width, self.n_max = c_lstm, n_max
        self.input_proj = nn.Conv2d(c_z, c_lstm, 1)
        self.conv_lstm = Gates(c_lstm)
        self.flow_head = convs(c_lstm, 32, 2)
        self.occ_head = convs(c_lstm, 32, 1)
        self.residual_head = convs(c_z, 2 * c_z, c_z)
        self.state_head = linears(c_lstm, 256, 6 * n_max)
        self.collision_head = linears(c_lstm, 64, 1)

    def initial(self, latent):
        zeros = latent.new_zeros(len(latent), self.width, *latent.shape[2:])
        return zeros, zeros

    def forward(self, latent, hidden, cell):
        """One step: everything that it computes, by name."""
        hidden, cell = self.conv_lstm(self.input_proj(latent), hidden, cell)
        flow = torch.tanh(self.flow_head(hidden))  # times one latent cell
        mask = torch.sigmoid(self.occ_head(hidden))
        warped = sample(latent, flow)
        residual = self.residual_head(warped)
        mean = hidden.mean((2, 3))
        return {
            "latent": warped * mask + residual * (1 - mask),
            "warped": warped,
            "flow": flow,
            "mask": mask,
            "residual": residual,
            "hidden": hidden,
            "cell": cell,
            "states": self.state_head(mean).unflatten(1, (self.n_max, 6)),
            "collision": self.collision_head(mean)[:, 0],
        }


def sample(image, flow):
    """The image at p + flow(p), with flow as (x, y) in its pixels."""
    h, w = image.shape[2:]
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    at_x = 2 * (x + flow[:, 0]) / (w - 1) - 1
    at_y = 2 * (y + flow[:, 1]) / (h - 1) - 1
    return F.grid_sample(
        image,
        torch.stack([at_x, at_y], -1),
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )


def teacher_forced(temporal, latents):
    """Steps over true latents [b, t, c, h, w]: a list."""
    hidden, cell = temporal.initial(latents[:, 0])
    steps = []
    for latent in latents.unbind(1):
        steps.append(temporal(latent, hidden, cell))
        hidden, cell = steps[-1]["hidden"], steps[-1]["cell"]
    return steps


def predict(vae, temporal, context, num_future):
    """How the reference goes on after a context [b, t, 3, h, w].

    Returns:
      frames [b, num_future, 3, h, w] and the steps that predicted them.
    """
    latents = torch.stack([vae.encode(frame)[0] for frame in context.unbind(1)], 1)
    seen = teacher_forced(temporal, latents)[-1]
    latent, hidden, cell = latents[:, -1], seen["hidden"], seen["cell"]
    frames, steps = [], []
    for _ in range(num_future):
        step = temporal(latent, hidden, cell)
        hidden, cell = step["hidden"], step["cell"]
        steps.append(step)
        frames.append(vae.decode(step["latent"]))
        latent = vae.encode(frames[-1])[0]
    return torch.stack(frames, 1), steps


def adaptation_loss(vae, temporal, context):
    """What its test-time training minimises."""
    latents = torch.stack([vae.encode(frame)[0] for frame in context.unbind(1)], 1)
    steps = teacher_forced(temporal, latents[:, :-1])
    losses = [
        F.l1_loss(vae.decode(step["warped"]), frame)
        for step, frame in zip(steps, context[:, 1:].unbind(1), strict=True)
    ]
    return torch.stack(losses).mean()
