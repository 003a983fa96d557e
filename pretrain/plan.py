"""Parameters, memory and traffic of a recipe: python -m pretrain.plan [--ranks N] [--gpu-gb 80] RECIPE [overrides]

Prints parameters by part, the cost of one sample of each kind, and for each ZeRO stage the memory of a rank and the
bytes that it sends. Nothing is allocated.
"""

from pretrain.config.command_line import run_recipe_command
from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.options import PlanOptions
from pretrain.recipes import RECIPES


def main() -> None:
    run_recipe_command(RECIPES, PlanOptions, "pretrain.plan", plan_recipe)


def plan_recipe(config: PretrainConfig, options: PlanOptions) -> str:
    # Imported here, so that --help and mistakes in the options do not wait for torch and DeepSpeed
    from pretrain.planning.plan import default_ranks, plan

    return plan(config, options.ranks or default_ranks(config), options.gpu_gb)


if __name__ == "__main__":
    main()
