"""ResNet for images (He et al. 2015, arXiv 1512.03385), with the stride on the 3x3 convolution ("v1.5").

Initialisation after He et al. 2015, arXiv 1502.01852. resnet18 has 11,689,512 parameters, resnet50 25,557,032.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from workloads.errors import WorkloadError


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions (`basic`), or 1x1, 3x3, 1x1 with four times the channels out (`bottleneck`)."""

    def __init__(self, inputs: int, width: int, *, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            sizes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        else:
            sizes = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for index, (before, after, kernel, step) in enumerate(sizes, 1):
            layers[f"conv{index}"] = nn.Conv2d(before, after, kernel, step, kernel // 2, bias=False)
            layers[f"norm{index}"] = nn.BatchNorm2d(after)
            if index < len(sizes):
                layers[f"relu{index}"] = nn.ReLU()
        self.branch = nn.Sequential(layers)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                OrderedDict(conv=nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm=nn.BatchNorm2d(outputs))
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride]."""
        out: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return out


class ResNet(nn.Module):
    """Image classifier. Input [B, 3, H, W], output logits [B, classes].

    `depths` are the blocks of the four stages; channels double and the image halves from one to the next.
    """

    def __init__(self, depths: Sequence[int], *, bottleneck: bool, classes: int = 1000) -> None:
        super().__init__()
        if len(depths) != 4 or min(depths) < 1:
            raise WorkloadError(f"ResNet depths {list(depths)}", "four stages of at least one block each")
        self.stem = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(3, 64, 7, 2, 3, bias=False),
                norm=nn.BatchNorm2d(64),
                relu=nn.ReLU(),
                pool=nn.MaxPool2d(3, 2, 1),
            )
        )
        self.stages, channels = nn.Sequential(), 64
        for stage, depth in enumerate(depths):
            blocks = nn.Sequential()
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(ResidualBlock(channels, 64 * 2**stage, stride=stride, bottleneck=bottleneck))
                channels = 64 * 2**stage * (4 if bottleneck else 1)
            self.stages.append(blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, classes]."""
        logits: Tensor = self.classify(self.pool(self.stages(self.stem(image))).flatten(1))
        return logits


def resnet18(*, classes: int = 1000) -> ResNet:
    """ResNet-18: two basic blocks a stage."""
    return ResNet((2, 2, 2, 2), bottleneck=False, classes=classes)


def resnet50(*, classes: int = 1000) -> ResNet:
    """ResNet-50: 3, 4, 6, 3 bottleneck blocks."""
    return ResNet((3, 4, 6, 3), bottleneck=True, classes=classes)
