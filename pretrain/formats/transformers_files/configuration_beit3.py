"""Sizes and variants of a BEiT-3, as `config.json` holds them."""

from typing import Any

from transformers import PretrainedConfig


class Beit3Config(PretrainedConfig):
    """The defaults are BEiT-3 base with attention that is shared by images and texts.

    hidden_size: width of a token. num_hidden_layers: number of blocks. intermediate_size: hidden width of an expert.
    num_vl_layers: number of top blocks with a vision-language expert for image-text pairs. decoupled_attention: whether
    images and texts have attention projections and norms of their own, as in Microsoft's released weights.
    image_size, patch_size: sides in pixels. num_visual_tokens: size of the visual tokenizer's codebook.
    max_position_embeddings: longest text in tokens. drop_path_rate: stochastic depth of the last block in training.
    masked_data_heads: whether there are heads for masked patches and masked words. contrastive_heads: whether there are
    projections of images and texts into one space, and the scale of their similarities. logit_bias: whether a bias is
    added to these, as SigLIP's loss has it.
    """

    model_type = "beit3"

    def __init__(
        self,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int = 3072,
        num_vl_layers: int = 0,
        decoupled_attention: bool = False,
        image_size: int = 224,
        patch_size: int = 16,
        num_channels: int = 3,
        vocab_size: int = 64010,
        num_visual_tokens: int = 8192,
        max_position_embeddings: int = 1022,
        layer_norm_eps: float = 1e-5,
        drop_path_rate: float = 0.0,
        initializer_range: float = 0.02,
        masked_data_heads: bool = True,
        contrastive_heads: bool = False,
        logit_bias: bool = False,
        bos_token_id: int = 0,
        pad_token_id: int = 1,
        eos_token_id: int = 2,
        mask_token_id: int = 64001,
        **kwargs: Any,
    ):
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.num_vl_layers = num_vl_layers
        self.decoupled_attention = decoupled_attention
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_channels = num_channels
        self.vocab_size = vocab_size
        self.num_visual_tokens = num_visual_tokens
        self.max_position_embeddings = max_position_embeddings
        self.layer_norm_eps = layer_norm_eps
        self.drop_path_rate = drop_path_rate
        self.initializer_range = initializer_range
        self.masked_data_heads = masked_data_heads
        self.contrastive_heads = contrastive_heads
        self.logit_bias = logit_bias
        self.mask_token_id = mask_token_id
        ids = {"bos_token_id": bos_token_id, "pad_token_id": pad_token_id, "eos_token_id": eos_token_id}
        # transformers ties the masked-word head to the word embedding unless this is switched off
        super().__init__(**{"tie_word_embeddings": False, **ids, **kwargs})

    def known_mask_id(self) -> int:
        """Return mask_token_id. Raises ValueError if the weights were written without a text tokenizer."""
        if self.mask_token_id is None:
            raise ValueError("no text tokenizer lies beside these weights, so that no id of <mask> is known")
        return self.mask_token_id
