"""Captions of images. python -m pretrain.caption SOURCE --images FOLDER --out captions.jsonl"""

from data_pipeline.settings.command_line import run_command
from pretrain.inference.options import CaptionOptions


def main() -> None:
    run_command(CaptionOptions, "pretrain.caption", caption)


def caption(options: CaptionOptions) -> str:
    options.data()
    # Imported here, so that --help and mistakes in the options do not wait for torch
    from pretrain.inference.captioning import caption_source
    from pretrain.survival.out_of_memory import naming_lack_of_memory

    with naming_lack_of_memory(f"give a smaller --batch-size than {options.batch_size}"):
        return caption_source(options)


if __name__ == "__main__":
    main()
