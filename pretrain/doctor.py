"""Is this machine ready, and the recipe's data? python -m pretrain.doctor [--ranks N] [--json] [RECIPE [overrides]]

Prints a line per finding, ok, warning or error, with the remedy below it. Exit codes: 0 no error, perhaps warnings;
1 an error, so that a run would fail; 2 a mistake in the command.
"""

import sys
import time

from pretrain.config.command_line import parse_options_and_recipe_if_any
from pretrain.config.run_config import RunConfig
from pretrain.diagnosis.checks import diagnose
from pretrain.diagnosis.findings import as_json, exit_code, summary
from pretrain.diagnosis.options import DoctorOptions
from pretrain.recipes import CONTRAST_RECIPES, FINETUNE_RECIPES, RECIPES, VISUAL_TOKENIZER_RECIPES
from pretrain.survival.console import say


def main() -> None:
    recipes = {**VISUAL_TOKENIZER_RECIPES, **RECIPES, **CONTRAST_RECIPES, **FINETUNE_RECIPES}
    recipe, config, options = parse_options_and_recipe_if_any(recipes, DoctorOptions, "pretrain.doctor")
    sys.exit(report(recipe, config, options))


def report(recipe: str, config: RunConfig | None, options: DoctorOptions) -> int:
    """Print the findings and return the exit code."""
    started, findings = time.monotonic(), []
    for finding in diagnose(recipe, config, options):
        findings.append(finding)
        if not options.json and (finding.level != "ok" or not options.quiet):
            say(str(finding))
    seconds = time.monotonic() - started
    say(as_json(findings, seconds) if options.json else summary(findings, seconds))
    return exit_code(findings)


if __name__ == "__main__":
    main()
