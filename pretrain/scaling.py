"""A recipe on more and more GPUs, on paper: python -m pretrain.scaling [--mfu 0.46] [RECIPE] [overrides]"""

from pretrain.config.command_line import run_recipe_command
from pretrain.config.pretraining import PretrainConfig
from pretrain.planning.options import ScalingOptions
from pretrain.recipes import RECIPES


def main() -> None:
    run_recipe_command(RECIPES, ScalingOptions, "pretrain.scaling", scale_recipe, default_recipe="beit3_giant")


def scale_recipe(config: PretrainConfig, options: ScalingOptions) -> str:
    # Imported here, so that --help and mistakes in the options do not wait for torch and DeepSpeed
    from pretrain.planning.scaling import machine_of, scaling

    return scaling(config, machine_of(options))


if __name__ == "__main__":
    main()
