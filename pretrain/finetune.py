"""Finetune a pretrained network for a task: deepspeed --module pretrain.finetune RECIPE --initial-weights SOURCE

What is trained is in pretrain/jobs/finetuning.py, the loop and its exit codes in pretrain/run/loop.py. Retrieval is
finetuned by pretrain.contrast and its recipes retrieval_*.
"""

from pretrain.config.command_line import parse_recipe_and_options
from pretrain.config.dry_run import DryRunOptions
from pretrain.recipes import FINETUNE_RECIPES
from pretrain.survival.startup_log import begin_startup


def main() -> None:
    config, options = parse_recipe_and_options(FINETUNE_RECIPES, DryRunOptions, "pretrain.finetune")
    if not options.dry_run:
        begin_startup(config.run_dir)
    # after parsing: help does not wait for torch and DeepSpeed
    from pretrain.evaluation.finetuning import evaluation_of_finetuning
    from pretrain.jobs.finetuning import Finetuning
    from pretrain.run.loop import run_job

    if options.dry_run:
        from pretrain.run.dry_run import dry_run

        dry_run(Finetuning, config, options, evaluation_of_finetuning)
    run_job(Finetuning, config, evaluation_of_finetuning)


if __name__ == "__main__":
    main()
