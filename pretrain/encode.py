"""Features of images, texts and pairs. python -m pretrain.encode SOURCE --images FOLDER --out FEATURES.npy"""

from data_pipeline.settings.command_line import run_command
from pretrain.inference.options import EncodeOptions


def main() -> None:
    run_command(EncodeOptions, "pretrain.encode", encode)


def encode(options: EncodeOptions) -> str:
    options.data()
    # Imported here, so that --help and mistakes in the options do not wait for torch
    from pretrain.inference.encoding import encode_source
    from pretrain.survival.out_of_memory import naming_lack_of_memory

    with naming_lack_of_memory(f"give a smaller --batch-size than {options.batch_size}"):
        return encode_source(options)


if __name__ == "__main__":
    main()
