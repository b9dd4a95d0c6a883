"""VideoAudioAST: VideoViT with sound, one audio token a frame beside the frame's patches, attention across both.

Token concatenation of two modalities in one transformer, as in Nagrani et al. 2021 (attention bottlenecks, arXiv
2107.00135, its early fusion). What the audio token is among the tokens of its frame, its learned place position tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from workloads.errors import WorkloadError
from workloads.models.gated_encoder import GatedEncoder, Gates, PrunerFactory, require_positive
from workloads.models.video_vit import PatchTokens, initialise, sizes

MEL_BANDS = 64
"""Log-mel bands of the sound of one frame, as the specification's preprocessing writes them."""


class VideoAudioAST(nn.Module):
    """Clip classifier. Video as `VideoViT` takes it and audio features [B, T, audio_feat_dim] to [B, num_classes].

    Arguments are those of `VideoViT`, with `audio_feat_dim`. Pruning is on unless switched off, as specified, and asks
    for a `pruner`. Raises WorkloadError as `VideoViT` does, and for audio of another shape.
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
        audio_feat_dim: int,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        attn_drop: float = 0.0,
        drop_path_rate: float = 0.0,
        use_ast_prune: bool = True,
        ast_cfg: Mapping[str, Any] | None = None,
        *,
        pruner: PrunerFactory | None = None,
    ) -> None:
        super().__init__()
        require_positive(num_classes=num_classes, audio_feat_dim=audio_feat_dim)
        self.num_frames, self.audio_feat_dim = num_frames, audio_feat_dim
        self.video_tokens = PatchTokens(
            img_size=img_size,
            num_frames=num_frames,
            patch_size=patch_size,
            in_chans=in_chans,
            embed_dim=embed_dim,
        )
        self.audio_proj = nn.Linear(audio_feat_dim, embed_dim)
        self.encoder = GatedEncoder(
            num_frames=num_frames,
            places={"video": self.video_tokens.grid**2, "audio": 1},
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
        self, x_video: Tensor, x_audio: Tensor, return_intermediate: bool = False, *, gates: Gates | None = None
    ) -> Tensor | tuple[Tensor, dict[str, Any]]:
        """Logits [B, num_classes]; with `return_intermediate` also the dict of `GatedEncoder.intermediate`.

        The dict holds besides `modality_slices` (first and end of each modality's tokens in a frame) and `modal_stats`
        (figures of each modality). `gates` stand in for what the pruner would decide.
        """
        expected = (x_video.shape[0], self.num_frames, self.audio_feat_dim)
        if tuple(x_audio.shape) != expected:
            raise WorkloadError(f"VideoAudioAST got audio of shape {tuple(x_audio.shape)}", f"[B, T, D] = {expected}")
        video = self.video_tokens(x_video)
        audio = self.audio_proj(x_audio).unsqueeze(2)  # [B, T, 1, dim]
        encoded = self.encoder(torch.cat([video, audio], dim=2), gates)
        logits: Tensor = self.classify(encoded.pooled)
        if not return_intermediate:
            return logits
        modal = {"modality_slices": dict(self.encoder.slices), "modal_stats": self.encoder.modal_stats(encoded)}
        return logits, self.encoder.intermediate(encoded) | modal


def video_audio_ast(size: str = "base", **changes: Any) -> VideoAudioAST:
    """VideoAudioAST of a size of `video_vit.SIZES` without a pruner, with these arguments changed."""
    return VideoAudioAST(**{**sizes(size), "audio_feat_dim": MEL_BANDS, "use_ast_prune": False, **changes})
