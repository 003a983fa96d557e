"""Options of pretrain.convert."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from annotated_types import Interval

from data_pipeline.settings.ranges import Size, check_ranges
from pretrain.config.run_config import WeightKind
from pretrain.formats.role import Role

ImageSize = Annotated[int, Interval(ge=1, le=4096)]
"""In pixels; attention over the patches of larger images needs more memory than a machine has."""


@dataclass(frozen=True)
class ConvertOptions:
    """Convert weights between our checkpoints and the formats of others."""

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """A run, whose newest checkpoint is taken, a checkpoint folder, or a file or folder of the kind given by --from."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The folder to write into."""
    to: Literal["beit3", "timm", "safetensors", "transformers"] | None = None
    """Format to write. None: safetensors for --from beit3, else beit3."""
    from_: Annotated[Literal["checkpoint", "beit3", "safetensors"], tyro.conf.arg(name="from")] = "checkpoint"
    """Kind of the source: our checkpoint, Microsoft's file, or a folder that --to safetensors wrote."""
    weights: WeightKind = "raw"
    """Weights of our checkpoint: raw, as trained, or ema, their moving average, which optimizer.ema_decay keeps."""
    average: tuple[Path, ...] = ()
    """Further runs or checkpoint folders: the mean of their weights and those of SOURCE is converted, a model soup."""
    role: Role | None = None
    """Use that a file must be exact for. fusion: image-text pairs, for Microsoft's tasks vqav2, nlvr2,
    coco_captioning and nocaps. dual: images alone and texts alone, for imagenet, flickr30k and coco_retrieval. vision,
    text: the same file as dual, verified for one of them. Networks without vision-language experts give one file that
    is exact for all. None: for --to beit3 dual for a contrastive run and else fusion, vision for --to timm."""
    image_size: ImageSize | None = None
    """Interpolate the image positions for images of this side in pixels."""
    trim_vocab: bool = False
    """Drop the rows of the word embedding and of the masked-word head that no id of the text tokenizer reaches."""
    num_heads: Size | None = None
    """Attention heads, for --from beit3 if the sizes are not published ones and the file has no card."""
    new_heads: bool = False
    """For --from beit3 with a file that was tuned for a task: initialize masked-image head, masked-word head and final
    norm anew, if the file lacks them. Without it a dual encoder of theirs stays one."""
    num_visual_tokens: Size | None = None
    """Codes of your visual tokenizer, for a masked-image head that --new-heads initializes. None: 8192."""
    verify: bool = True
    """Load the written files and compare them with the source."""

    def __post_init__(self) -> None:
        check_ranges(self)
