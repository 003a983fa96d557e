"""Microsoft's networks of tasks, written from their published code on torchscale's BEiT3."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.config import CaptionHead, ClassHead, MultiwayConfig, Nlvr2Head, TaskHead, VqaHead
from model.multiway import MultiwayInputs
from tests.support.torchscale_beit3 import build_torchscale_beit3


class TheirPooler(nn.Module):
    """Pooler of unilm/beit3 modeling_finetune.py."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.dense = nn.Linear(dim, dim)
        self.activation = nn.Tanh()

    def forward(self, states: Tensor) -> Tensor:
        pooled: Tensor = self.activation(self.dense(self.norm(states[:, 0, :])))
        return pooled


class TheirTwoLayers(nn.Module):
    """TwoLayerMLP of the same file."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(in_features)
        self.dense1 = nn.Linear(in_features, hidden_features)
        self.norm2 = nn.LayerNorm(hidden_features)
        self.act = nn.GELU()
        self.dense2 = nn.Linear(hidden_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.dense2(self.act(self.norm2(self.dense1(self.norm1(x)))))
        return logits


class TheirTaskNetwork(nn.Module):
    """BEiT3ForVisualQuestionAnswering, -VisualReasoning, -Captioning and -ImageClassification of the same file."""

    def __init__(self, config: MultiwayConfig, heads: TaskHead, max_text_positions: int | None = None):
        super().__init__()
        self.heads, dim = heads, config.dim
        self.beit3 = build_torchscale_beit3(
            dim=dim,
            depth=config.depth,
            num_heads=config.num_heads,
            ffn_dim=config.ffn_dim,
            image_size=config.image_size,
            patch_size=config.patch_size,
            vocab_size=config.vocab_size,
            max_text_positions=max_text_positions or config.max_text_length + 2,
            normalize_output=not isinstance(heads, VqaHead | ClassHead),
        )
        if isinstance(heads, VqaHead):
            self.pooler = TheirPooler(dim)
            layers = (nn.Linear(dim, dim * 2), nn.LayerNorm(dim * 2), nn.GELU(), nn.Linear(dim * 2, heads.num_answers))
            self.head: nn.Module = nn.Sequential(*layers)
        elif isinstance(heads, Nlvr2Head):
            self.head = TheirTwoLayers(dim * 4, dim * 2, 2)
        elif isinstance(heads, CaptionHead):
            self.mlm_head = nn.Linear(dim, config.vocab_size)
        else:
            self.fc_norm = nn.LayerNorm(dim)
            self.head = nn.Linear(dim, heads.num_classes)

    @torch.no_grad()
    def logits(self, inputs: MultiwayInputs) -> Tensor:
        """Return their outputs for inputs of ours: of a VqaNetwork, Nlvr2Network, CaptionNetwork or ClassifyNetwork."""
        images, ids, padding = inputs.images, inputs.caption_ids, inputs.caption_padding
        if isinstance(self.heads, ClassHead):
            states = self.beit3(textual_tokens=None, visual_tokens=images)["encoder_out"]
            found: Tensor = self.head(self.fc_norm(states[:, 1:, :].mean(1)))
            return found
        mask = their_caption_mask(self.beit3, ids) if isinstance(self.heads, CaptionHead) else None
        outputs = self.beit3(textual_tokens=ids, visual_tokens=images, text_padding_position=padding, attn_mask=mask)
        states, split = outputs["encoder_out"], outputs["multiway_split_position"]
        if isinstance(self.heads, VqaHead):
            found = self.head(self.pooler(states))
        elif isinstance(self.heads, Nlvr2Head):
            first, second = torch.cat([states[:, 0, :], states[:, split, :]], dim=-1).split(len(images) // 2)
            found = self.head(torch.cat([first, second], dim=-1))
        else:
            found = self.mlm_head(states[:, split:])
        return found


def their_caption_mask(beit3: nn.Module, ids: Tensor) -> Tensor:
    """Return their `uni_mask`, 1 where a row's token must not see the column's."""
    image_len, text_len = int(beit3.vision_embed.num_position_embeddings()), ids.shape[1]  # type: ignore[operator, union-attr]
    max_len = image_len + text_len
    uni_mask = torch.zeros((max_len, max_len), dtype=torch.long)
    uni_mask[image_len:, image_len:] = torch.tril(torch.ones(text_len, text_len, dtype=torch.long))
    uni_mask[image_len:, :image_len] = 1
    uni_mask[:image_len, :image_len] = 1
    return 1 - uni_mask


def their_task_network(config: MultiwayConfig, heads: TaskHead, state: Mapping[str, Tensor]) -> TheirTaskNetwork:
    """Return their network with the tensors of a file; any missing or unexpected key fails."""
    network = TheirTaskNetwork(config, heads, len(state["beit3.encoder.embed_positions.B.weight"]))
    network.load_state_dict(state, strict=True)
    return network.eval()
