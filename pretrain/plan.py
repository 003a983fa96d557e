"""Memory, traffic and time of a recipe on paper: python -m pretrain.plan [--ranks N] [--gpu h100] RECIPE [overrides]

Prints parameters by part, the cost of one sample of each kind, for each ZeRO stage the memory of a rank and the bytes
that it sends, the predicted time of a step by part, and which stage is fastest on how many ranks. Nothing is allocated.
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
    from pretrain.planning.step_times import AssumedMachine

    machine = AssumedMachine(options.device, options.assume)
    return plan(config, options.ranks or default_ranks(config), machine)


if __name__ == "__main__":
    main()
