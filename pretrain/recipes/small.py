"""Recipes for a laptop: the demo, and one for your own data."""

from dataclasses import replace
from pathlib import Path

from data_pipeline.loading.config import DataConfig
from model.config import Checkpointing, MultiwayConfig, VisualTokenizerConfig
from pretrain.config.evaluation import EvaluationConfig
from pretrain.config.pretraining import ObjectiveConfig, PretrainConfig
from pretrain.config.run_config import OptimizerConfig
from pretrain.config.visual_tokenizer import CodebookConfig, VisualTokenizerRun


def demo() -> PretrainConfig:
    """A tiny BEiT-3 on drawn scenes, on two CPU ranks in a few minutes. `make demo` runs it from data to conversion.

    Command: deepspeed --num_accelerators 2 --module pretrain.train demo
    Expects: runs/demo/data as written by python -m pretrain.demo.
    Sizes and hyperparameters are our choice. In so short a run the image losses dominate the words at equal weights,
    and matrices that start as small as BEiT's 0.02 learn slowly at this width. Half of the pairs keep their image whole
    (docs/whole_images.md).
    """
    data = Path("runs/demo/data")
    return PretrainConfig(
        model=MultiwayConfig(
            dim=192,
            depth=3,
            num_heads=6,
            ffn_dim=576,
            num_vl_layers=1,
            image_size=48,
            patch_size=8,
            vocab_size=144,
            num_visual_tokens=256,
            max_text_length=32,
            init_std=0.11,
            embed_init_std=0.19,
        ),
        data=DataConfig(
            images=(str(data / "images"),),
            pairs=(str(data / "pairs"),),
            texts=(str(data / "texts"),),
            text_tokenizer=data / "text_tokenizer.spm",
            caption_length=20,
            text_length=32,
            num_lanes=4,
            min_crop_scale=0.8,
            color_jitter=0.1,
            horizontal_flip=False,  # captions say left and right
            num_workers=0,
        ),
        visual_tokenizer=data / "visual_tokenizer.pt",
        run_dir=Path("runs/demo"),
        num_steps=700,
        images_per_step=4,
        pairs_per_step=16,
        texts_per_step=8,
        activation_checkpointing=Checkpointing("full"),
        objective=ObjectiveConfig(
            image_mask_ratio=0.4,
            whole_image_share=0.5,
            min_block_patches=3,
            mim_weight=0.1,
            mvlm_image_weight=0.1,
        ),
        optimizer=OptimizerConfig(peak_lr=1e-3, min_lr=5e-5, warmup_steps=60, gradient_clip=1.0, ema_decay=0.99),
        precision="float32",
        deepspeed_config=Path("ds_configs/zero3_cpu.json"),
        save_every_steps=350,
        # the batch is tiny: as many samples as show a curve cost more than the 1 % of a large run
        evaluation=EvaluationConfig(
            images=str(data / "held_out_pairs"),
            pairs=str(data / "held_out_pairs"),
            texts=str(data / "held_out_texts"),
            every_steps=100,
            num_samples=96,
            num_words=96,
            chunk_size=16,
        ),
    )


def laptop() -> PretrainConfig:
    """A small BEiT-3 on your own shards, on two CPU ranks in well under an hour.

    Command: deepspeed --num_accelerators 2 --module pretrain.train laptop
    Expects: data/images, data/pairs, data/held_out_pairs, data/texts and data/tokenizer.spm as the README writes them;
    to go without held-out pairs: --evaluation.every-steps 0.
    Sizes and hyperparameters are our choice, for a few thousand pairs.
    """
    data, tiny = Path("data"), demo()
    return replace(
        tiny,
        model=replace(tiny.model, depth=4, image_size=64, vocab_size=8192, max_text_length=128),
        data=replace(
            tiny.data,
            images=(str(data / "images"),),
            pairs=(str(data / "pairs"),),
            texts=(str(data / "texts"),),
            text_tokenizer=data / "tokenizer.spm",
            caption_length=24,
            text_length=64,
            min_crop_scale=0.5,
            color_jitter=0.2,
        ),
        visual_tokenizer=data / "visual_tokenizer.pt",
        run_dir=Path("runs/laptop"),
        num_steps=2000,
        objective=replace(tiny.objective, min_block_patches=4),
        optimizer=replace(tiny.optimizer, ema_decay=0.0),  # its evaluation would take more than a hundredth of the time
        save_every_steps=500,
        evaluation=replace(
            tiny.evaluation,
            images=str(data / "held_out_pairs"),
            pairs=str(data / "held_out_pairs"),
            texts=None,
            every_steps=500,
            num_samples=64,
            num_words=64,
        ),
    )


def laptop_multilingual() -> PretrainConfig:
    """The recipe laptop for captions and texts in several languages and scripts.

    Command: deepspeed --num_accelerators 2 --module pretrain.train laptop_multilingual
    Expects: the files of the recipe laptop, with a tokenizer that was trained on all the languages:
    python -m data_pipeline.train_text_tokenizer data/tokenizer.spm pair=CAPTIONS text=TEXTS --vocab-size 16000. A
    caption in each language is a pair of its own: a list of captions in CAPTIONS, or a source per language, which
    --data.pairs data/pairs_en data/pairs_ja=2 weighs. Then the contrastive stage: deepspeed --num_accelerators 2
    --module pretrain.contrast contrast_laptop --initial-weights runs/laptop_multilingual --model.vocab-size 16384
    --data.caption-length 40
    Twice the words of laptop; captions have room for scripts that take a token for each character. Our choice.
    """
    one_language = laptop()
    return replace(
        one_language,
        model=replace(one_language.model, vocab_size=16384),
        data=replace(one_language.data, caption_length=40),
        run_dir=Path("runs/laptop_multilingual"),
    )


def laptop_visual_tokenizer() -> VisualTokenizerRun:
    """The visual tokenizer of the recipe laptop: 256 codes of 8 x 8 pixel patches of 64 pixel images.

    Command: python -m pretrain.train_visual_tokenizer laptop
    """
    tiny, pretraining = demo_visual_tokenizer(), laptop()
    return replace(
        tiny,
        model=replace(tiny.model, image_size=64),
        data=_images_alone(pretraining.data),
        out=pretraining.visual_tokenizer,
        run_dir=Path("runs/laptop_visual_tokenizer"),
        num_steps=300,
        evaluation=replace(tiny.evaluation, images=pretraining.evaluation.images, every_steps=100),
    )


def demo_visual_tokenizer() -> VisualTokenizerRun:
    """The demo's visual tokenizer: 256 codes of 8 x 8 pixel patches, in about 15 seconds on two cores.

    Command: python -m pretrain.train_visual_tokenizer demo
    Expects: runs/demo/data/images. The codebook moves and revives faster than BEiT v2's, for a run of 150 steps.
    """
    pretraining = demo()
    return VisualTokenizerRun(
        model=VisualTokenizerConfig(
            image_size=48,
            patch_size=8,
            dim=64,
            num_heads=4,
            encoder_depth=1,
            decoder_depth=1,
            num_codes=256,
            code_dim=16,
            teacher_dim=192,
        ),
        data=_images_alone(pretraining.data),
        out=pretraining.visual_tokenizer,
        run_dir=Path("runs/demo/visual_tokenizer"),
        num_steps=150,
        images_per_step=32,
        codebook=CodebookConfig(decay=0.9),
        init_std=0.1,
        optimizer=OptimizerConfig(
            peak_lr=1e-3, min_lr=1e-3, warmup_steps=20, beta2=0.99, eps=1e-8, weight_decay=1e-4, gradient_clip=0.0
        ),
        precision="float32",
        deepspeed_config=pretraining.deepspeed_config,
        evaluation=EvaluationConfig(images=pretraining.evaluation.images, every_steps=50, num_samples=96),
    )


def _images_alone(data: DataConfig) -> DataConfig:
    return replace(data, pairs=(), texts=(), text_tokenizer=None)
