"""Make a dual encoder of a pretrained network: deepspeed --module pretrain.contrast RECIPE --initial-weights SOURCE

What is trained is in pretrain/jobs/contrast.py, the loop and its exit codes in pretrain/run/loop.py.
"""

from pretrain.config.command_line import parse_recipe_and_options
from pretrain.config.dry_run import DryRunOptions
from pretrain.recipes import CONTRAST_RECIPES
from pretrain.survival.startup_log import begin_startup


def main() -> None:
    config, options = parse_recipe_and_options(CONTRAST_RECIPES, DryRunOptions, "pretrain.contrast")
    if not options.dry_run:
        begin_startup(config.run_dir)
    # after parsing: help does not wait for torch and DeepSpeed
    from pretrain.evaluation.contrast import evaluation_of_contrast
    from pretrain.jobs.contrast import Contrast
    from pretrain.run.loop import run_job

    if options.dry_run:
        from pretrain.run.dry_run import dry_run

        dry_run(Contrast, config, options, evaluation_of_contrast)
    run_job(Contrast, config, evaluation_of_contrast)


if __name__ == "__main__":
    main()
