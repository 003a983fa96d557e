"""A run on paper: python -m pretrain.plan [--ranks N] [--gpu h100] [--mfu 0.4] [--price 2.5] RECIPE [overrides]

Prints, in sections, parameters by part, the cost of one sample of each kind, the memory of a rank under each ZeRO stage
and the bytes that it sends, the predicted time of a step by part, which stage is fastest on how many ranks, the largest
micro-batch that fits, days, GPU-hours and price of the whole run, the bytes of data and checkpoints, and the command
that starts it. Each line says whether it is measured, published, counted or assumed. Nothing is allocated.
"""

import sys

from data_pipeline.settings.command_line import print_result
from data_pipeline.settings.parsing import parse_first_options
from pretrain.config.command_line import parse_recipe_and_options
from pretrain.config.run_config import EncoderRunConfig
from pretrain.planning.options import PlanOptions
from pretrain.recipes import CONTRAST_RECIPES, FINETUNE_RECIPES, RECIPES

MODULE = "pretrain.plan"


def main() -> None:
    config, options = parse_recipe_and_options({**RECIPES, **CONTRAST_RECIPES, **FINETUNE_RECIPES}, PlanOptions, MODULE)
    _, of_training = parse_first_options(PlanOptions, sys.argv[1:], MODULE)
    print_result(lambda: plan_recipe(config, options, of_training))


def plan_recipe(config: EncoderRunConfig, options: PlanOptions, of_training: list[str]) -> str:
    # Imported here, so that --help and mistakes in the options do not wait for torch and DeepSpeed
    from pretrain.planning.plan import default_ranks, machine_for, plan, speed_of
    from pretrain.run.run_log import read_log

    machine = machine_for(config, options)
    speed = speed_of(config, options, machine, [] if options.run is None else read_log(options.run))
    ranks = options.ranks or default_ranks(config, machine)
    return plan(config, ranks, machine, speed, options.price, of_training)


if __name__ == "__main__":
    main()
