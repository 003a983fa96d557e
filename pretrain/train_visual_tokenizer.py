"""Train a visual tokenizer (VQ-KD): deepspeed --module pretrain.train_visual_tokenizer RECIPE [overrides]

What is trained is in pretrain/jobs/visual_tokenizer.py, the loop and its exit codes in pretrain/run/loop.py.
"""

from pretrain.config.command_line import parse_recipe
from pretrain.recipes import VISUAL_TOKENIZER_RECIPES
from pretrain.survival.startup_log import begin_startup


def main() -> None:
    config = parse_recipe(VISUAL_TOKENIZER_RECIPES, "pretrain.train_visual_tokenizer")
    begin_startup(config.run_dir)
    # after parsing, as in pretrain/train.py
    from pretrain.evaluation.visual_tokenizer import evaluation_of_visual_tokenizer
    from pretrain.jobs.visual_tokenizer import VisualTokenizerTraining
    from pretrain.run.loop import run_job

    run_job(VisualTokenizerTraining, config, evaluation_of_visual_tokenizer)


if __name__ == "__main__":
    main()
