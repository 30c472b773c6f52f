"""I3D in torch, for tests: the tables of the papers and TensorFlow's rule for SAME.

It shares nothing with the package: its batch norm is a layer, its pools are torch's,
its windows slide. Parameters are named as in one of the two ports whose files people
have.
"""

import math

import torch
from torch import nn
from torch.nn import functional

# GoogLeNet's table: 1x1, 3x3 reduce, 3x3, "5x5" reduce, "5x5", pool projection.
TABLE = {
    "3b": (192, (64, 96, 128, 16, 32, 32)),
    "3c": (256, (128, 128, 192, 32, 96, 64)),
    "4b": (480, (192, 96, 208, 16, 48, 64)),
    "4c": (512, (160, 112, 224, 24, 64, 64)),
    "4d": (512, (128, 128, 256, 24, 64, 64)),
    "4e": (512, (112, 144, 288, 32, 64, 64)),
    "4f": (528, (256, 160, 320, 32, 128, 128)),
    "5b": (832, (256, 160, 320, 32, 128, 128)),
    "5c": (832, (384, 192, 384, 48, 128, 128)),
}


def pad_same(x, window, stride):
    """Zeros around [b, c, t, h, w] such that the output has ceil(size / stride)."""
    pads = []
    for size, length, step in zip(
        x.shape[:1:-1], window[::-1], stride[::-1], strict=True
    ):
        missing = (math.ceil(size / step) - 1) * step + length - size
        missing = max(missing, 0)
        pads += [missing // 2, missing - missing // 2]
    return functional.pad(x, pads)


class Pool(nn.Module):
    def __init__(self, window, stride):
        super().__init__()
        self.window, self.stride = window, stride

    def forward(self, x):
        x = pad_same(x, self.window, self.stride)
        return functional.max_pool3d(x, self.window, self.stride)


class Unit(nn.Module):
    def __init__(self, norm, inputs, outputs, size, stride=1):
        super().__init__()
        self.norm, self.window, self.stride = norm, (size,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(inputs, outputs, size, stride, bias=False)
        setattr(self, norm, nn.BatchNorm3d(outputs, eps=1e-3))

    def forward(self, x):
        x = self.conv3d(pad_same(x, self.window, self.stride))
        return functional.relu(getattr(self, self.norm)(x))


class Piergiaj(nn.Module):
    """An Inception module with the names of piergiaj/pytorch-i3d."""

    def __init__(self, inputs, widths):
        super().__init__()
        for name, source, width, size in (
            ("b0", inputs, widths[0], 1),
            ("b1a", inputs, widths[1], 1),
            ("b1b", widths[1], widths[2], 3),
            ("b2a", inputs, widths[3], 1),
            ("b2b", widths[3], widths[4], 3),
            ("b3b", inputs, widths[5], 1),
        ):
            self.add_module(name, Unit("bn", source, width, size))
        self.b3a = Pool((3, 3, 3), (1, 1, 1))

    def forward(self, x):
        first, second = self.b1b(self.b1a(x)), self.b2b(self.b2a(x))
        return torch.cat([self.b0(x), first, second, self.b3b(self.b3a(x))], 1)


class Hassony2(nn.Module):
    """The same with the names of hassony2/kinetics_i3d_pytorch."""

    def __init__(self, inputs, widths):
        super().__init__()

        def unit(*arguments):
            return Unit("batch3d", *arguments)

        self.branch_0 = unit(inputs, widths[0], 1)
        self.branch_1 = nn.Sequential(
            unit(inputs, widths[1], 1), unit(widths[1], widths[2], 3)
        )
        self.branch_2 = nn.Sequential(
            unit(inputs, widths[3], 1), unit(widths[3], widths[4], 3)
        )
        self.branch_3 = nn.Sequential(
            Pool((3, 3, 3), (1, 1, 1)), unit(inputs, widths[5], 1)
        )

    def forward(self, x):
        branches = (self.branch_0, self.branch_1, self.branch_2, self.branch_3)
        return torch.cat([branch(x) for branch in branches], 1)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv3d = nn.Conv3d(1024, 400, 1)

    def forward(self, x):
        window = (2, *x.shape[3:])
        return self.conv3d(functional.avg_pool3d(x, window, 1)).mean((2, 3, 4))


class TorchI3D(nn.Module):
    """[b, 3, t, h, w] in [-1, 1] -> [b, 400]; everything random, statistics too."""

    def __init__(self, mixed):
        super().__init__()
        ours = mixed is Piergiaj
        norm = "bn" if ours else "batch3d"

        def cased(name):
            return name if ours else name.lower()

        layers = {
            cased("Conv3d_1a_7x7"): Unit(norm, 3, 64, 7, 2),
            "pool_2a": Pool((1, 3, 3), (1, 2, 2)),
            cased("Conv3d_2b_1x1"): Unit(norm, 64, 64, 1),
            cased("Conv3d_2c_3x3"): Unit(norm, 64, 192, 3),
            "pool_3a": Pool((1, 3, 3), (1, 2, 2)),
        }
        for name, row in TABLE.items():
            if name == "4b":
                layers["pool_4a"] = Pool((3, 3, 3), (2, 2, 2))
            if name == "5b":
                layers["pool_5a"] = Pool((2, 2, 2), (2, 2, 2))
            layers[cased(f"Mixed_{name}")] = mixed(*row)
        layers["logits" if ours else "conv3d_0c_1x1"] = Head()
        self.order = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0.1, 0.3)
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.3, 2)
        self.eval()

    def forward(self, x):
        for name in self.order:
            x = getattr(self, name)(x)
        return x
