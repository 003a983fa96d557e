"""Does the network read the image? python -m pretrain.masked_words RUN PAIRS"""

from data_pipeline.settings.command_line import run_command
from pretrain.evaluation.options import MaskedWordsOptions


def main() -> None:
    run_command(MaskedWordsOptions, "pretrain.masked_words", evaluate)


def evaluate(options: MaskedWordsOptions) -> str:
    # Imported here, so that --help and mistakes in the options do not wait for torch
    from pretrain.evaluation.masked_words import evaluate_masked_words, report

    return report(evaluate_masked_words(options))


if __name__ == "__main__":
    main()
