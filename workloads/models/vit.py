"""Vision Transformer for images (Dosovitskiy et al. 2020, arXiv 2010.11929). vit_b_16 has 86,567,656 parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from workloads.errors import WorkloadError


class SelfAttention(nn.Module):
    """Multi-head scaled dot-product self-attention; queries, keys and values from one matrix."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise WorkloadError(f"{heads} heads do not divide a width of {dim}", "a width that is a multiple of heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, dim] to the same."""
        batch, tokens, dim = x.shape
        qkv: Tensor = self.qkv(x)
        query, key, value = qkv.view(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out: Tensor = self.out(mixed)
        return out


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and feed-forward, each with a residual connection."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim, eps=1e-6)
        self.attention = SelfAttention(dim, heads)
        self.norm_feedforward = nn.LayerNorm(dim, eps=1e-6)
        self.feedforward = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, dim] to the same."""
        x = x + self.attention(self.norm_attention(x))
        out: Tensor = x + self.feedforward(self.norm_feedforward(x))
        return out


class ViT(nn.Module):
    """Image classifier over patches. Input [B, 3, image, image], output logits [B, classes]."""

    def __init__(
        self,
        *,
        image: int = 224,
        patch: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        if image % patch:
            raise WorkloadError(f"patches of {patch} do not tile an image of {image}", "a multiple of the patch size")
        self.image = image
        self.patches = nn.Conv2d(3, dim, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(EncoderBlock(dim, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.classify = nn.Linear(dim, classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.patches.weight, std=math.sqrt(1 / (3 * patch * patch)))
        nn.init.zeros_(self.classify.weight)  # the head starts at zero, as in section 3.2

    def forward(self, image: Tensor) -> Tensor:
        """[B, 3, image, image] to [B, classes]."""
        if image.shape[1:] != (3, self.image, self.image):
            raise WorkloadError(
                f"ViT got an input of shape {tuple(image.shape)}", f"[B, 3, {self.image}, {self.image}]"
            )
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(image.shape[0], -1, -1), tokens], dim=1) + self.positions
        logits: Tensor = self.classify(self.norm(self.blocks(x))[:, 0])
        return logits


def vit_b_16(*, classes: int = 1000) -> ViT:
    """ViT-B/16: 12 blocks of width 768, 12 heads, patches of 16 pixels, images of 224."""
    return ViT(classes=classes)
