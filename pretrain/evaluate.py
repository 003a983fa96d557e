"""What has a network learned? python -m pretrain.evaluate RUN_OR_EXPORT [--pairs FOLDER ...]"""

from pretrain.config.command_line import run_command_on_ranks
from pretrain.evaluation.options import EvaluateOptions


def main() -> None:
    run_command_on_ranks(EvaluateOptions, "pretrain.evaluate", evaluate)


def evaluate(options: EvaluateOptions) -> str:
    # Imported here, so that --help and mistakes in the options do not wait for torch
    from pretrain.conversion.evaluated import evaluate_source, report
    from pretrain.survival.out_of_memory import naming_lack_of_memory

    with naming_lack_of_memory("give a smaller --chunk-size"):
        return report(*evaluate_source(options))


if __name__ == "__main__":
    main()
