"""Pretrain a BEiT-3: deepspeed --module pretrain.train RECIPE [overrides]

What is trained is in pretrain/jobs/pretraining.py, the loop and its exit codes in pretrain/run/loop.py.
"""

from pretrain.config.command_line import parse_recipe_and_options
from pretrain.config.dry_run import DryRunOptions
from pretrain.recipes import RECIPES
from pretrain.survival.startup_log import begin_startup


def main() -> None:
    config, options = parse_recipe_and_options(RECIPES, DryRunOptions, "pretrain.train")
    if not options.dry_run:
        begin_startup(config.run_dir)
    # after parsing: help does not wait for torch and DeepSpeed
    from pretrain.evaluation.pretraining import evaluation_of_pretraining
    from pretrain.jobs.pretraining import Pretraining
    from pretrain.run.loop import run_job

    if options.dry_run:
        from pretrain.run.dry_run import dry_run

        dry_run(Pretraining, config, options, evaluation_of_pretraining)
    run_job(Pretraining, config, evaluation_of_pretraining)


if __name__ == "__main__":
    main()
