"""Convert weights between our checkpoints and the formats of others.

    python -m pretrain.convert RUN OUT                   Microsoft's file, role fusion
    python -m pretrain.convert RUN OUT --role dual       see pretrain/formats/beit3_loaders.py for roles and tasks
    python -m pretrain.convert RUN OUT --to timm         timm.create_model("local-dir:OUT", pretrained=True)
    python -m pretrain.convert RUN OUT --to safetensors  model.load_pretrained("OUT")
    python -m pretrain.convert RUN OUT --to transformers AutoModel.from_pretrained("OUT", trust_remote_code=True)
    python -m pretrain.convert RUN OUT --weights ema     the moving average of the weights
    python -m pretrain.convert RUN OUT --average RUN/checkpoints/step_00001000 RUN/checkpoints/step_00001500
    python -m pretrain.convert beit3_base_patch16_224.pth OUT --from beit3

A contrastive run becomes a dual encoder, in Microsoft's format one of their `itc` files. A folder of safetensors is a
source as well (--from safetensors), and a value for `initial_weights` of a recipe. The text tokenizer, if the source
has one, preprocessing.json, a card in JSON and a README.md with the lines that load the weights are written beside
them. Everything written is loaded again and compared with the source: every tensor, and outputs on random
inputs.
"""

from data_pipeline.settings.command_line import run_command
from pretrain.conversion.options import ConvertOptions


def main() -> None:
    run_command(ConvertOptions, "pretrain.convert", convert_and_report)


def convert_and_report(options: ConvertOptions) -> str:
    # Imported here, so that --help and mistakes in the options do not wait for torch and DeepSpeed
    from pretrain.conversion.convert import convert, report

    return report(convert(options))


if __name__ == "__main__":
    main()
