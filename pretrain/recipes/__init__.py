"""What can be trained? Recipes are complete configs, one function each; the command line overrides any field."""

from collections.abc import Callable

from pretrain.config.contrast import ContrastConfig
from pretrain.config.finetune import FinetuneConfig
from pretrain.config.pretraining import PretrainConfig
from pretrain.config.visual_tokenizer import VisualTokenizerRun
from pretrain.recipes.beit3 import beit3_base, beit3_base_shared, beit3_giant, beit3_large, beit3_large_shared
from pretrain.recipes.contrast import (
    contrast_base,
    contrast_demo,
    contrast_giant,
    contrast_laptop,
    contrast_large,
)
from pretrain.recipes.finetuning import (
    caption_base_480,
    caption_giant_392,
    caption_large_480,
    classify_base,
    classify_large,
    nlvr2_base,
    nlvr2_giant,
    nlvr2_large,
    nocaps_base_480,
    nocaps_large_480,
    vqa_base_480,
    vqa_giant_756,
    vqa_large_480,
)
from pretrain.recipes.retrieval import (
    retrieval_classes_laptop,
    retrieval_coco_base_384,
    retrieval_coco_giant_420,
    retrieval_coco_large_384,
    retrieval_flickr30k_base_384,
    retrieval_flickr30k_giant_420,
    retrieval_flickr30k_large_384,
    retrieval_imagenet_base_224,
    retrieval_imagenet_giant_336,
    retrieval_imagenet_large_224,
)
from pretrain.recipes.small import (
    demo,
    demo_visual_tokenizer,
    laptop,
    laptop_multilingual,
    laptop_visual_tokenizer,
)
from pretrain.recipes.small_finetuning import (
    caption_laptop,
    classify_laptop,
    easy_vqa,
    nlvr2_laptop,
    vqa_laptop,
)
from pretrain.recipes.vlbeit import vlbeit_base
from pretrain.recipes.vlmo import vlmo_base, vlmo_base_plus, vlmo_large
from pretrain.recipes.vqkd import vqkd_base, vqkd_base_dino

RECIPES: dict[str, Callable[[], PretrainConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        demo,
        laptop,
        laptop_multilingual,
        beit3_giant,
        beit3_base,
        beit3_large,
        beit3_base_shared,
        beit3_large_shared,
        vlbeit_base,
        vlmo_base,
        vlmo_base_plus,
        vlmo_large,
    )
}
VISUAL_TOKENIZER_RECIPES: dict[str, Callable[[], VisualTokenizerRun]] = {
    "demo": demo_visual_tokenizer,
    "laptop": laptop_visual_tokenizer,
    "vqkd_base": vqkd_base,
    "vqkd_base_dino": vqkd_base_dino,
}
CONTRAST_RECIPES: dict[str, Callable[[], ContrastConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        contrast_demo,
        contrast_laptop,
        contrast_base,
        contrast_large,
        contrast_giant,
        retrieval_coco_base_384,
        retrieval_coco_large_384,
        retrieval_coco_giant_420,
        retrieval_flickr30k_base_384,
        retrieval_flickr30k_large_384,
        retrieval_flickr30k_giant_420,
        retrieval_classes_laptop,
        retrieval_imagenet_base_224,
        retrieval_imagenet_large_224,
        retrieval_imagenet_giant_336,
    )
}
FINETUNE_RECIPES: dict[str, Callable[[], FinetuneConfig]] = {
    recipe.__name__: recipe
    for recipe in (
        easy_vqa,
        vqa_laptop,
        nlvr2_laptop,
        caption_laptop,
        classify_laptop,
        vqa_base_480,
        vqa_large_480,
        vqa_giant_756,
        nlvr2_base,
        nlvr2_large,
        nlvr2_giant,
        caption_base_480,
        caption_large_480,
        caption_giant_392,
        nocaps_base_480,
        nocaps_large_480,
        classify_base,
        classify_large,
    )
}
