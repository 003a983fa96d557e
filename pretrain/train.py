"""Pretrain a BEiT-3: deepspeed --module pretrain.train RECIPE [overrides]

What is trained is in pretrain/jobs/pretraining.py, the loop and its exit codes in pretrain/run/loop.py.
"""

from pretrain.config.command_line import parse_recipe_and_options
from pretrain.config.dry_run import DryRunOptions
from pretrain.recipes import RECIPES


def main() -> None:
    config, options = parse_recipe_and_options(RECIPES, DryRunOptions, "pretrain.train")
    from pretrain.jobs.pretraining import Pretraining  # after parsing: help does not wait for torch and DeepSpeed
    from pretrain.run.loop import run_job

    if options.dry_run:
        from pretrain.run.dry_run import dry_run

        dry_run(Pretraining, config, options)
    run_job(Pretraining, config)


if __name__ == "__main__":
    main()
