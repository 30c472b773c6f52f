"""RIVER's two kinds of autoencoders in torch, for tests: written from descriptions.

They share nothing with the package. Parameters are named as in the published files;
images are in [-1, 1].
"""

import math

import torch
from torch import nn
from torch.nn import functional


def group_norm(width):
    return nn.GroupNorm(math.gcd(32, width), width, eps=1e-6)


def swish(x):
    return x * torch.sigmoid(x)


def leaky(x):
    return functional.leaky_relu(x, 0.2)


def nearest(z, codes):
    """Numbers [b, h, w] of the codes [n, c] at the least distance to [b, c, h, w]."""
    rows = z.permute(0, 2, 3, 1).reshape(-1, z.shape[1])
    return (
        torch.cdist(rows.double(), codes.double()).argmin(1).view(len(z), *z.shape[2:])
    )


def randomise(module):
    """Everything as if trained: no norm is the identity, no statistics are fresh."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
            if part.bias is not None:
                nn.init.normal_(part.bias, 0, 0.2)
        if isinstance(part, nn.GroupNorm | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.3)
            nn.init.uniform_(part.running_var, 0.3, 2)
        if isinstance(part, nn.MultiheadAttention):
            nn.init.normal_(part.in_proj_weight, 0, part.embed_dim**-0.5)
            nn.init.normal_(part.in_proj_bias, 0, 0.2)
    return module.eval()


# --- RIVER's own -------------------------------------------------------------------


class RiverResidual(nn.Module):
    def __init__(self, inputs, outputs, factor=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = group_norm(outputs)
        self.pool = nn.AvgPool2d(factor)
        if inputs != outputs or factor > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.AvgPool2d(factor),
                group_norm(outputs),
            )

    def forward(self, x):
        y = self.bn2(self.conv2(leaky(self.bn1(self.pool(self.conv1(x))))))
        return leaky(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class RiverGrow(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        return leaky(self.norm(self.conv(x)))


class RiverHalf(nn.Module):
    """What encoder and decoder have in common."""

    def __init__(self, inputs, first, top, last, outputs):
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, first, 3, padding=1)
        self.pre_attn_residual = RiverResidual(top, top)
        self.attn_norm = group_norm(top)
        self.attn = nn.MultiheadAttention(top, 1, batch_first=True)
        self.post_attn_residual = RiverResidual(top, top)
        self.out_norm = group_norm(last)
        self.out_conv = nn.Conv2d(last, outputs, 3, padding=1)

    def middle(self, x):
        x = self.pre_attn_residual(x)
        tokens = self.attn_norm(x).flatten(2).transpose(1, 2)
        seen = self.attn(tokens, tokens, tokens)[0]
        return self.post_attn_residual(x + seen.transpose(1, 2).view_as(x))

    def end(self, x):
        return self.out_conv(swish(self.out_norm(x)))


class RiverEncoder(RiverHalf):
    def __init__(self, base):
        super().__init__(3, base, 8 * base, 8 * base, 4)
        self.residuals = nn.Sequential(
            RiverResidual(base, 2 * base, 2),
            RiverResidual(2 * base, 4 * base, 2),
            RiverResidual(4 * base, 8 * base, 2),
        )

    def forward(self, x):
        return self.end(self.middle(self.residuals(self.conv_in(x))))


class RiverDecoder(RiverHalf):
    def __init__(self, base):
        super().__init__(4, 8 * base, 8 * base, base, 3)
        self.residuals = nn.Sequential(
            *(
                nn.Sequential(RiverResidual(2 * width, width), RiverGrow(width))
                for width in (4 * base, 2 * base, base)
            )
        )

    def forward(self, z):
        return torch.tanh(self.end(self.residuals(self.middle(self.conv_in(z)))))


class RiverVQ(nn.Module):
    def __init__(self, base, num_codes):
        super().__init__()
        self.encoder, self.decoder = RiverEncoder(base), RiverDecoder(base)
        self.vector_quantizer = nn.Module()
        self.vector_quantizer.embedding = nn.Embedding(num_codes, 4)
        randomise(self)

    @property
    def codes(self):
        return self.vector_quantizer.embedding.weight

    def encode(self, x):
        return self.encoder(x)

    def decode(self, code):
        return self.decoder(code)


# --- VQGAN of latent diffusion -----------------------------------------------------

# Multipliers of the width, side of the grid with attention, side of the images that
# this side is meant for, channels of the latent.
VQGANS = {
    "f8": ((1, 2, 2, 4), 32, 256, 4),
    "f8_small": ((1, 2, 2, 4), 16, 64, 4),
    "f16": ((1, 1, 2, 2, 4), 16, 256, 8),
}


class Block(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = group_norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        y = self.conv2(swish(self.norm2(self.conv1(swish(self.norm1(x))))))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class GridAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = group_norm(width)
        for name in ("q", "k", "v", "proj_out"):
            setattr(self, name, nn.Conv2d(width, width, 1))

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (part(y).flatten(2) for part in (self.q, self.k, self.v))
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(x.shape[1]), 2)
        return x + self.proj_out((v @ weights.transpose(1, 2)).view_as(x))


class Shrink(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x):
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Expand(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3))


class Level(nn.Module):
    def __init__(self, inputs, outputs, count, attention, resize):
        super().__init__()
        widths = [inputs] + [outputs] * count
        self.block = nn.ModuleList(map(Block, widths[:-1], widths[1:]))
        self.attn = nn.ModuleList(
            GridAttention(outputs) for _ in range(count * attention)
        )
        for name, layer in resize.items():
            setattr(self, name, layer)

    def forward(self, x):
        for index, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[index](x)
        for name in ("downsample", "upsample"):
            x = getattr(self, name)(x) if hasattr(self, name) else x
        return x


class Middle(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.block_1, self.block_2 = Block(width, width), Block(width, width)
        self.attn_1 = GridAttention(width)

    def forward(self, x):
        return self.block_2(self.attn_1(self.block_1(x)))


class VQGANHalf(nn.Module):
    def __init__(self, name, base, encodes):
        super().__init__()
        factors, grid, side, latent = VQGANS[name]
        widths = [base * factor for factor in factors]
        top = len(widths) - 1
        levels = nn.ModuleList()
        for level, width in enumerate(widths):
            attention = side >> level == grid
            if encodes:
                before = widths[max(level - 1, 0)] if level else base
                resize = {"downsample": Shrink(width)} if level < top else {}
                levels.append(Level(before, width, 2, attention, resize))
            else:
                before = widths[min(level + 1, top)]
                resize = {"upsample": Expand(width)} if level else {}
                levels.append(Level(before, width, 3, attention, resize))
        first, last = (base, widths[-1]) if encodes else (widths[-1], base)
        self.conv_in = nn.Conv2d(3 if encodes else latent, first, 3, padding=1)
        setattr(self, "down" if encodes else "up", levels)
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(last)
        self.conv_out = nn.Conv2d(last, latent if encodes else 3, 3, padding=1)
        self.encodes = encodes

    def forward(self, x):
        x = self.conv_in(x)
        if self.encodes:
            for level in self.down:
                x = level(x)
            x = self.mid(x)
        else:
            x = self.mid(x)
            for level in reversed(self.up):
                x = level(x)
        return self.conv_out(swish(self.norm_out(x)))


class VQGAN(nn.Module):
    def __init__(self, name, base, num_codes):
        super().__init__()
        latent = VQGANS[name][3]
        self.encoder = VQGANHalf(name, base, encodes=True)
        self.decoder = VQGANHalf(name, base, encodes=False)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(num_codes, latent)
        self.quant_conv = nn.Conv2d(latent, latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)
        randomise(self)

    @property
    def codes(self):
        return self.quantize.embedding.weight

    def encode(self, x):
        return self.quant_conv(self.encoder(x))

    def decode(self, code):
        return self.decoder(self.post_quant_conv(code))
