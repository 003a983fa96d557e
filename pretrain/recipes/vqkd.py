"""BEiT v2's visual tokenizers (arXiv 2208.06366). Expects data/images and the weights of a teacher."""

from dataclasses import replace
from pathlib import Path

from data_pipeline.loading.config import DataConfig
from model.config import VisualTokenizerConfig
from pretrain.config.run_config import OptimizerConfig
from pretrain.config.visual_tokenizer import TeacherConfig, VisualTokenizerRun


def vqkd_base() -> VisualTokenizerRun:
    """vqkd_encoder_base_decoder_3x768x12_clip: 8192 codes of CLIP ViT-B/16's features, 14 x 14 for 224 px.

    Command: deepspeed --module pretrain.train_visual_tokenizer vqkd_base
    Expects: ImageNet-1K's training images in data/images, OpenAI's ViT-B-16 in data/clip_vit_b_16.pt, the package
    open_clip_torch. Published: all figures; 100 epochs of 1,281,167 images, 10 of them warmup; it used 97 % of its
    codes on ImageNet's validation images. Differences: bfloat16 instead of float16; k-means once over up to 16
    features per code of all ranks instead of one per rank; one codebook update per step; revival of dead codes.
    """
    data = Path("data")
    return VisualTokenizerRun(
        model=VisualTokenizerConfig(),
        teacher=TeacherConfig("open_clip:ViT-B-16-quickgelu", data / "clip_vit_b_16.pt"),
        data=DataConfig(images=(str(data / "images"),), min_crop_scale=0.08, color_jitter=0.0),
        out=data / "visual_tokenizer.pt",
        run_dir=Path("runs/vqkd_base"),
        num_steps=250_200,
        images_per_step=512,
        optimizer=OptimizerConfig(
            peak_lr=2e-4,  # 5e-5 for 128 images
            min_lr=1e-5,
            warmup_steps=25_020,
            beta1=0.9,
            beta2=0.99,
            eps=1e-8,
            weight_decay=1e-4,
            gradient_clip=0.0,
        ),
        save_every_steps=5000,
    )


def vqkd_base_dino() -> VisualTokenizerRun:
    """vqkd_encoder_base_decoder_1x768x12_dino: the same with DINO ViT-B/16's features and a decoder of one block.

    Command: deepspeed --module pretrain.train_visual_tokenizer vqkd_base_dino
    Expects: as vqkd_base, with data/dino_vitbase16_pretrain.pth and the package timm.
    """
    clip = vqkd_base()
    return replace(
        clip,
        model=replace(clip.model, decoder_depth=1, teacher_dim=768),
        teacher=TeacherConfig("timm:vit_base_patch16_224.dino", Path("data/dino_vitbase16_pretrain.pth")),
        out=Path("data/visual_tokenizer_dino.pt"),
        run_dir=Path("runs/vqkd_base_dino"),
    )
