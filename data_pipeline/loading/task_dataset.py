"""The loader's dataset of a finetuning run."""

from data_pipeline.images.imagenet_augment import ImageNetAugment
from data_pipeline.images.rand_augment import RandAugment
from data_pipeline.images.transform import ImageTransform
from data_pipeline.loading.dataset import drawn_text, encoded
from data_pipeline.loading.shard_dataset import SECOND_IMAGE, ShardDataset, sample_generator
from data_pipeline.loading.task_batch import LoadedTaskSample, TaskBatch, TaskShape, collate_task
from data_pipeline.loading.task_config import TaskDataConfig, labels_of
from data_pipeline.samples.sample import BadSample, BadSampleError, Kind
from data_pipeline.samples.task_labels import TaskLabels
from data_pipeline.samples.tasks import TASK_KINDS, Task
from data_pipeline.shards.reader import SampleReader
from data_pipeline.texts.tokenizer import TextTokenizer


class TaskDataset(ShardDataset[TaskBatch, LoadedTaskSample]):
    """Samples of one task."""

    def __init__(
        self,
        config: TaskDataConfig,
        task: Task,
        samples_per_step: int,
        image_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        ranks_per_node: int = 1,
    ):
        """samples_per_step: the number of samples in the global batch; image_size: side of the images in pixels;
        ranks_per_node: as for `ShardDataset`. Raises ValueError as it does, and for a missing list of answers or
        classes or a missing text tokenizer.
        """
        self.task: Task = task
        self.tokenizer = _tokenizer(config, task)
        self.labels = TaskLabels(task, labels_of(config, task))
        self.shape = TaskShape(task, image_size, config.text_length, self.labels.num_labels)
        augment = ImageNetAugment() if task == "classify" else RandAugment()
        self.transform = ImageTransform(
            image_size,
            config.min_crop_scale,
            config.color_jitter,
            config.horizontal_flip,
            config.max_image_pixels,
            augment if config.rand_augment else None,
        )
        kinds = [(TASK_KINDS[task], config.shards, samples_per_step)]
        super().__init__(kinds, config, seed, rank, world_size, ranks_per_node)

    def collate(self, step: int, samples: list[LoadedTaskSample], bad: list[BadSample], failure: str = "") -> TaskBatch:
        return collate_task(step, samples, bad, self.shape, failure)

    def load(self, kind: Kind, reader: SampleReader, sample: int, sample_id: int) -> LoadedTaskSample:
        target = self.labels.known_target(reader.annotation(sample))
        if target is None and self.task != "caption":
            raise BadSampleError("sample has no label, as those of a test split")
        second = ids = None
        pixels = self.transform(reader.image_bytes(sample), sample_generator(self.seed, sample_id))
        if self.task == "nlvr2":
            generator = sample_generator(self.seed, sample_id, SECOND_IMAGE)
            second = self.transform(reader.image_bytes(sample, "image2"), generator)
        if self.tokenizer is not None:
            text = drawn_text(reader, sample, self.seed, sample_id)
            ids = encoded(self.tokenizer, text, self.shape.text_length)
        return LoadedTaskSample(sample_id, reader.key(sample), pixels, second, ids, target)


def _tokenizer(config: TaskDataConfig, task: Task) -> TextTokenizer | None:
    if task == "classify":
        return None
    if config.text_tokenizer is None:
        raise ValueError(f"task {task} needs data.text_tokenizer for its texts; give a SentencePiece model")
    return TextTokenizer(config.text_tokenizer)
