"""VideoViT: a Vision Transformer that classifies clips, with joint attention over all patches of all frames.

Patch tokens of every frame as in a ViT (Dosovitskiy et al. 2020, arXiv 2010.11929), all T x N of them in one sequence
(joint space-time attention, Bertasius et al. 2021, arXiv 2102.05095), mean pool, linear head. Its tokens, heads,
channels and blocks take gates (`workloads.models.gated_encoder`). The sizes are this project's choice: no publication
states any.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor, nn

from workloads.errors import WorkloadError
from workloads.models.gated_encoder import GatedEncoder, Gates, PrunerFactory, require_positive

SIZES: Mapping[str, Mapping[str, Any]] = {
    # as small as tests need it; the widths at which pruning was tried first
    "tiny": {
        "img_size": 32,
        "num_frames": 4,
        "num_classes": 6,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 4,
        "mlp_ratio": 4.0,
        "patch_size": 8,
    },
    # ViT-S/16 (arXiv 2012.12877) on 8 frames, UCF101
    "small": {
        "img_size": 224,
        "num_frames": 8,
        "num_classes": 101,
        "embed_dim": 384,
        "depth": 12,
        "num_heads": 6,
        "mlp_ratio": 4.0,
        "patch_size": 16,
    },
    # ViT-B/16 on 16 frames, UCF101
    "base": {
        "img_size": 224,
        "num_frames": 16,
        "num_classes": 101,
        "embed_dim": 768,
        "depth": 12,
        "num_heads": 12,
        "mlp_ratio": 4.0,
        "patch_size": 16,
    },
}


def sizes(size: str) -> Mapping[str, Any]:
    """Return the constructor's arguments of a size.

    Raises WorkloadError where there is none of that name.
    """
    if size not in SIZES:
        close = get_close_matches(size, SIZES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(SIZES)}"
        raise WorkloadError(f"there is no size {size!r} of the video models", hint)
    return SIZES[size]


class PatchTokens(nn.Module):
    """Cuts every frame of a clip into patches and maps each to a token."""

    def __init__(self, *, img_size: int, num_frames: int, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        require_positive(img_size=img_size, num_frames=num_frames, patch_size=patch_size, in_chans=in_chans)
        if img_size % patch_size:
            raise WorkloadError(
                f"patches of {patch_size} do not tile frames of {img_size}", "img_size a multiple of patch_size"
            )
        self.frame_shape, self.num_frames = (in_chans, img_size, img_size), num_frames
        self.grid = img_size // patch_size
        self.patches = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C, H, W] or [B, C, T, H, W] to [B, T, N, dim]; the first is meant where T and C are alike."""
        channels, height, width = self.frame_shape
        frames_first = (self.num_frames, channels, height, width)
        channels_first = (channels, self.num_frames, height, width)
        if tuple(x.shape[1:]) != frames_first:
            if tuple(x.shape[1:]) != channels_first:
                raise WorkloadError(
                    f"the model takes clips of num_frames T = {self.num_frames} and got one of shape {tuple(x.shape)}",
                    f"[B, T, C, H, W] = [B, {', '.join(map(str, frames_first))}] or "
                    f"[B, C, T, H, W] = [B, {', '.join(map(str, channels_first))}]",
                )
            x = x.transpose(1, 2)
        tokens: Tensor = self.patches(x.reshape(-1, channels, height, width))  # [B T, dim, grid, grid]
        return tokens.flatten(2).transpose(1, 2).reshape(x.shape[0], self.num_frames, self.grid**2, -1)


class VideoViT(nn.Module):
    """Clip classifier. Input [B, T, C, H, W] or [B, C, T, H, W] with T == num_frames, output logits [B, num_classes].

    `ast_cfg` goes to the pruner with the model's sizes filled in; its "gate_layer" says at which block tokens are
    gated. `pruner` makes the pruner that `use_ast_prune` asks for.

    Raises WorkloadError for sizes that do not fit together, for a pruner that is wanted and not given, and for an input
    of another shape.
    """

    def __init__(
        self,
        img_size: int,
        num_frames: int,
        num_classes: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        patch_size: int,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        attn_drop: float = 0.0,
        drop_path_rate: float = 0.0,
        use_ast_prune: bool = False,
        ast_cfg: Mapping[str, Any] | None = None,
        *,
        pruner: PrunerFactory | None = None,
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes)
        self.num_frames = num_frames
        self.video_tokens = PatchTokens(
            img_size=img_size,
            num_frames=num_frames,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
        )
        self.encoder = GatedEncoder(
            num_frames=num_frames,
            places={"video": self.video_tokens.grid**2},
            grid=self.video_tokens.grid,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            drop_rate=drop_rate,
            attn_drop=attn_drop,
            drop_path_rate=drop_path_rate,
            use_ast_prune=use_ast_prune,
            ast_cfg=ast_cfg,
            pruner=pruner,
        )
        self.classify = nn.Linear(embed_dim, num_classes)
        initialise(self)

    def forward(
        self, x: Tensor, return_intermediate: bool = False, *, gates: Gates | None = None
    ) -> Tensor | tuple[Tensor, dict[str, Any]]:
        """Logits [B, num_classes]; with `return_intermediate` also the dict of `GatedEncoder.intermediate`.

        `gates` stand in for what the pruner would decide.
        """
        encoded = self.encoder(self.video_tokens(x), gates)
        logits: Tensor = self.classify(encoded.pooled)
        return (logits, self.encoder.intermediate(encoded)) if return_intermediate else logits


def initialise(model: nn.Module) -> None:
    """Give matrices and positions a truncated normal of deviation 0.02 and biases zero, the usual start of a ViT.

    A pruner's parameters are its own business.
    """
    for name, module in model.named_modules():
        if "ast_pruner" in name.split("."):
            continue
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, GatedEncoder):
            nn.init.trunc_normal_(module.place_positions, std=0.02)
            nn.init.trunc_normal_(module.time_positions, std=0.02)


def video_vit(size: str = "base", **changes: Any) -> VideoViT:
    """VideoViT of a size of SIZES, with these arguments changed."""
    return VideoViT(**{**sizes(size), **changes})
