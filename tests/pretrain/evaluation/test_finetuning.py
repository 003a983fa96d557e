"""The evaluation of finetuned networks on drawn scenes. CPU, seconds."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_pipeline.loading.task_config import TaskDataConfig
from data_pipeline.loading.task_sample import TaskLabels
from data_pipeline.samples.scene_tasks import LABELS
from data_pipeline.samples.tasks import CaptionAnnotation, Task
from data_pipeline.texts.tokenizer import TextTokenizer
from model.captioner import captions
from model.config import CaptionHead, ClassHead, Nlvr2Head, TaskHead, VqaHead
from model.masked_data_model import MaskedDataModel
from model.task_networks import CaptionNetwork
from pretrain.evaluation.chunks import NotFiniteError, Ranks
from pretrain.evaluation.evaluation import Figures
from pretrain.evaluation.finetuning import Evaluated, TaskEvaluation
from pretrain.evaluation.task_inputs import TaskInputs
from pretrain.evaluation.task_samples import open_held_out_task
from pretrain.evaluation.written_captions import Writing, caption_rows, caption_rules
from pretrain.formats.preprocessing import Preprocessing
from tests.support.task_data import write_scenes
from tests.support.task_networks import small_task_network
from tests.support.tiny_run import TinyData

ANSWERS, CLASSES = LABELS["vqa"], LABELS["label"]
HEADS: dict[Task, TaskHead] = {
    "vqa": VqaHead(len(ANSWERS)),
    "nlvr2": Nlvr2Head(),
    "caption": CaptionHead(),
    "classify": ClassHead(len(CLASSES)),
}
TASKS = list(HEADS)
NUM_SAMPLES = 6
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    return {task: write_scenes(folder / task, task, NUM_SAMPLES) for task in TASKS}


@pytest.fixture
def tokenizer(tiny_data: TinyData) -> TextTokenizer:
    return TextTokenizer(tiny_data.folder / "text_tokenizer.spm")


def evaluation_of(task: Task, folder: Path, tokenizer: TextTokenizer, chunk_size: int = 4) -> TaskEvaluation:
    names = {"vqa": ANSWERS, "classify": CLASSES}.get(task)
    labels, words = TaskLabels(task, names), None if task == "classify" else tokenizer
    preprocessing = Preprocessing(32, text_length=12)
    samples = open_held_out_task(str(folder), "--held-out", TaskDataConfig(), labels, words, preprocessing)
    writing = Writing(max_length=7) if task == "caption" else None
    return TaskEvaluation(samples, TaskInputs(task, 8, torch.float32, CPU), chunk_size, words, writing)


def evaluated(task: Task, folder: Path, tokenizer: TextTokenizer, chunk_size: int = 4, ranks: int = 1) -> Evaluated:
    """Return the figures; with several ranks by adding what each of them computes alone."""
    network = small_task_network(HEADS[task], tokenizer)
    evaluation = evaluation_of(task, folder, tokenizer, chunk_size)
    if ranks == 1:
        return evaluation.evaluate(network, Ranks())
    parts: list[dict[int, torch.Tensor]] = []

    class OneOfSeveral(Ranks):
        """A rank that gathers from those before it instead of from a process group."""

        def by_place(self, num_samples, chunk_size, compute, device, name=str):  # type: ignore[no-untyped-def]
            rows = None
            for rank in range(ranks):
                for places, counts in Ranks(rank, ranks).own_chunks(num_samples, chunk_size):
                    found = compute(places).float()
                    rows = torch.zeros(num_samples, found.shape[1]) if rows is None else rows
                    if counts:
                        rows[places.start : places.stop] = found
            parts.append({})
            return rows

    return evaluation.evaluate(network, OneOfSeveral())


@pytest.mark.parametrize("task", TASKS)
def test_figures_do_not_depend_on_the_number_of_ranks(
    task: Task, shards: dict[Task, Path], tokenizer: TextTokenizer
) -> None:
    alone = evaluated(task, shards[task], tokenizer)
    assert all(math.isfinite(value) for value in alone.figures.values())
    assert len(alone.results) == NUM_SAMPLES
    assert evaluated(task, shards[task], tokenizer, ranks=3) == alone


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "classify"])
def test_figures_are_those_of_single_samples(task: Task, shards: dict[Task, Path], tokenizer: TextTokenizer) -> None:
    """Each sample alone, by its annotation and the network's inputs, without batches and padding."""
    evaluation, network = evaluation_of(task, shards[task], tokenizer), small_task_network(HEADS[task], tokenizer)
    right = 0.0
    for place, annotation in enumerate(evaluation.samples.annotations):
        batch, _ = evaluation.samples.batch([place])
        label = int(network(evaluation.inputs.of(batch))[0].argmax())
        if task == "vqa":
            right += annotation.answers.get(ANSWERS[label], 0)  # type: ignore[union-attr]
        else:
            right += label == annotation.label  # type: ignore[union-attr]
    found = evaluated(task, shards[task], tokenizer).figures
    assert found[evaluation.names[1]] == pytest.approx(right / NUM_SAMPLES)


@pytest.mark.parametrize("task", TASKS)
def test_a_network_whose_outputs_are_not_finite_has_no_figures(
    task: Task, shards: dict[Task, Path], tokenizer: TextTokenizer
) -> None:
    """Also on a test split, of which captions have no loss."""
    network = small_task_network(HEADS[task], tokenizer)
    with torch.no_grad():
        network.encoder.vision_embed.cls_token.fill_(torch.nan)
    evaluation = evaluation_of(task, shards[task], tokenizer)
    key = evaluation.samples.key(0)
    with pytest.raises(NotFiniteError, match=rf"for {NUM_SAMPLES} of {NUM_SAMPLES} samples \({key}, "):
        evaluation.evaluate(network, Ranks())
    if task == "caption":
        batch, _ = evaluation.samples.batch([0])
        rules = caption_rules(tokenizer, tokenizer.vocab_size, Writing(max_length=7))
        assert isinstance(network, CaptionNetwork)
        for beams in (1, 3):
            assert (
                caption_rows(network, evaluation.inputs.pixels(batch.images), replace(rules, num_beams=beams))
                .isnan()
                .all()
            )


def test_captions_are_those_of_the_captioner(shards: dict[Task, Path], tokenizer: TextTokenizer) -> None:
    evaluation = evaluation_of("caption", shards["caption"], tokenizer, chunk_size=NUM_SAMPLES)
    network = small_task_network(HEADS["caption"], tokenizer)
    assert isinstance(network, CaptionNetwork)
    batch, _ = evaluation.samples.batch(range(NUM_SAMPLES))
    rules = caption_rules(tokenizer, tokenizer.vocab_size, Writing(max_length=7))
    ids = captions(network, evaluation.inputs.pixels(batch.images), rules).ids
    found = evaluation.evaluate(network, Ranks())
    assert [text for _, text in found.results] == [tokenizer.decode(row) for row in ids.tolist()]
    names = [found.image_id for found in evaluation.samples.annotations if isinstance(found, CaptionAnnotation)]
    assert [name for name, _ in found.results] == names and found.places == list(range(NUM_SAMPLES))


def test_a_finetuned_network_writes_the_captions_of_the_pretrained_one_with_its_weights(
    shards: dict[Task, Path], tokenizer: TextTokenizer
) -> None:
    """A CaptionNetwork is the network of pretraining without its head for patches: the captioner must see no
    difference."""
    network = small_task_network(HEADS["caption"], tokenizer)
    pretrained = MaskedDataModel(network.encoder.config).eval()
    missing = pretrained.load_state_dict(network.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(name.startswith("mim_head") for name in missing.missing_keys)
    evaluation = evaluation_of("caption", shards["caption"], tokenizer)
    batch, _ = evaluation.samples.batch(range(3))
    pixels = evaluation.inputs.pixels(batch.images)
    for beams in (1, 3):
        rules = caption_rules(tokenizer, tokenizer.vocab_size, Writing(num_beams=beams, max_length=5))
        ours, theirs = (captions(each, pixels, rules) for each in (network, pretrained))  # type: ignore[arg-type]
        assert torch.equal(ours.ids, theirs.ids) and torch.equal(ours.scores, theirs.scores)


def test_the_loss_of_captions_is_the_mean_over_their_hidden_words(
    shards: dict[Task, Path], tokenizer: TextTokenizer
) -> None:
    """A network that knows nothing and gives every word the same chance is at the logarithm of their number."""
    network = small_task_network(HEADS["caption"], tokenizer)
    assert isinstance(network, CaptionNetwork)
    with torch.no_grad():
        network.mlm_head.weight.zero_()
        network.mlm_head.bias.zero_()
    found = evaluation_of("caption", shards["caption"], tokenizer).figures(network, Ranks())
    assert found["loss/caption"] == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-5)


def test_an_evaluation_leaves_the_network_as_it_was(shards: dict[Task, Path], tokenizer: TextTokenizer) -> None:
    network = small_task_network(HEADS["caption"], tokenizer)
    before, state = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    found: list[Figures] = [
        evaluation_of("caption", shards["caption"], tokenizer).figures(network, Ranks()) for _ in range(2)
    ]
    assert found[0] == found[1] and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
