"""One HTML page about runs, finished or still running: python -m pretrain.report RUN [RUN ...] [--out FILE] [--png]"""

from data_pipeline.settings.command_line import run_command
from pretrain.reporting.options import ReportOptions


def main() -> None:
    run_command(ReportOptions, "pretrain.report", report)


def report(options: ReportOptions) -> str:
    # Imported here, so that --help and mistakes in the options do not wait for torch
    from pretrain.reporting.report import write_report

    return write_report(options)


if __name__ == "__main__":
    main()
