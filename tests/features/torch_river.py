"""RIVER's vector field in PyTorch, written from its description, for comparison.

On torch's own transformer layers, under the names that published checkpoints have.
Images are NCHW here, as everywhere in torch.
"""

import torch
from torch import nn


class PositionEncoding(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.row_embed = nn.Embedding(512, features // 2)
        self.col_embed = nn.Embedding(512, features // 2)

    def forward(self, height, width):
        """[1, h * w, d], row by row: the column's half first."""
        places = [
            torch.cat([self.col_embed.weight[x], self.row_embed.weight[y]])
            for y in range(height)
            for x in range(width)
        ]
        return torch.stack(places)[None]


class ToTokens(nn.Module):
    """[b, c, h, w] to [b, tokens, patch * patch * c], the channel fastest."""

    def __init__(self, patch):
        super().__init__()
        self.patch = patch

    def forward(self, x):
        b, c, h, w = x.shape
        p = self.patch
        x = x.reshape(b, c, h // p, p, w // p, p)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (h // p) * (w // p), p * p * c)


class VectorField(nn.Module):
    def __init__(
        self,
        channels,
        features,
        heads,
        depth,
        mid_depth,
        patch=1,
        dropout=0.0,
        batch_norm=False,
    ):
        super().__init__()
        self.features, self.patch, self.channels = features, patch, channels

        def layer():
            made = nn.TransformerEncoderLayer(
                features,
                heads,
                4 * features,
                dropout,
                nn.functional.gelu,
                batch_first=True,
                norm_first=True,
            )
            made.self_attn.dropout = 0.0  # as ours
            return made

        self.position_encoding = PositionEncoding(features)
        self.project_in = nn.Sequential(
            ToTokens(patch), nn.Linear(3 * channels * patch**2, features)
        )
        self.time_projection = nn.Sequential(
            nn.Linear(1, 256), nn.ReLU(), nn.Linear(256, features)
        )
        self.in_blocks = nn.ModuleList(layer() for _ in range(depth))
        self.mid_blocks = nn.ModuleList(layer() for _ in range(mid_depth))
        self.out_blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * features, features), layer())
            for _ in range(depth)
        )
        # Identity is where the tokens become a grid.
        layer_norm = nn.GELU(), nn.LayerNorm(features), nn.Identity()
        self.batch_norm = batch_norm
        batch_norm = nn.Identity(), nn.GELU(), nn.BatchNorm2d(features)
        self.project_out = nn.Sequential(
            nn.Linear(features, features),
            *(batch_norm if self.batch_norm else layer_norm),
            nn.Conv2d(features, channels * patch**2, 3, padding=1),
        )

    def forward(self, latent, reference, condition, distance, time):
        b, _, h, w = latent.shape
        rows, columns = h // self.patch, w // self.patch
        x = self.project_in(torch.cat([latent, reference, condition], 1))
        far = self.time_projection(torch.log(distance.float())[:, None])
        x = x + self.position_encoding(rows, columns) + far[:, None]
        half = self.features // 2
        rate = 10_000.0 ** (-torch.arange(half) / half)
        angle = 200.0 * time[:, None] * rate[None]
        told = torch.cat([torch.cos(angle), torch.sin(angle)], 1)
        x = torch.cat([told[:, None], x], 1)
        kept = []
        for block in self.in_blocks:
            x = block(x)
            kept.append(x)
        for block in self.mid_blocks:
            x = block(x)
        for (skip, block), before in zip(self.out_blocks, kept[::-1], strict=True):
            x = block(skip(torch.cat([before, x], -1)))
        grid = (b, self.features, rows, columns)
        hidden, *between, conv = self.project_out
        x = hidden(x[:, 1:])
        if self.batch_norm:
            x = x.mT.reshape(grid)
        for part in between:
            x = part(x)
        x = conv(x if self.batch_norm else x.mT.reshape(grid))
        p = self.patch
        x = x.reshape(b, p, p, self.channels, rows, columns)
        return x.permute(0, 3, 4, 1, 5, 2).reshape(b, self.channels, h, w)
