"""Does the network predict hidden patches? python -m pretrain.masked_patches RUN IMAGES"""

from data_pipeline.settings.command_line import run_command
from pretrain.evaluation.options import MaskedPatchesOptions


def main() -> None:
    run_command(MaskedPatchesOptions, "pretrain.masked_patches", evaluate)


def evaluate(options: MaskedPatchesOptions) -> str:
    # Imported here, so that --help and mistakes in the options do not wait for torch
    from pretrain.evaluation.masked_patches import evaluate_masked_patches, report

    return report(evaluate_masked_patches(options))


if __name__ == "__main__":
    main()
