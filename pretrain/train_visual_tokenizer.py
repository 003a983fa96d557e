"""Train a visual tokenizer (VQ-KD): deepspeed --module pretrain.train_visual_tokenizer RECIPE [overrides]

What is trained is in pretrain/jobs/visual_tokenizer.py, the loop and its exit codes in pretrain/run/loop.py.
"""

from pretrain.config.command_line import parse_recipe_and_options
from pretrain.config.dry_run import DryRunOptions
from pretrain.recipes import VISUAL_TOKENIZER_RECIPES
from pretrain.survival.startup_log import begin_startup


def main() -> None:
    module = "pretrain.train_visual_tokenizer"
    config, options = parse_recipe_and_options(VISUAL_TOKENIZER_RECIPES, DryRunOptions, module)
    if not options.dry_run:
        begin_startup(config.run_dir)
    # after parsing, as in pretrain/train.py
    from pretrain.evaluation.visual_tokenizer import evaluation_of_visual_tokenizer
    from pretrain.jobs.visual_tokenizer import VisualTokenizerTraining
    from pretrain.run.loop import run_job

    if options.dry_run:
        from pretrain.run.dry_run import dry_run

        dry_run(VisualTokenizerTraining, config, options, evaluation_of_visual_tokenizer)
    run_job(VisualTokenizerTraining, config, evaluation_of_visual_tokenizer)


if __name__ == "__main__":
    main()
