"""Evaluation of a visual tokenizer's training: held-out loss and use of the codebook. CPU, seconds."""

from dataclasses import replace

import pytest
import torch

from pretrain.config.evaluation import EvaluationConfig
from pretrain.evaluation.chunks import Ranks
from pretrain.evaluation.visual_tokenizer import VisualTokenizerEvaluation, evaluation_of_visual_tokenizer
from pretrain.jobs.teachers import load_teacher
from pretrain.jobs.visual_tokenizer import VisualTokenizerTraining
from pretrain.jobs.visual_tokens import load_visual_tokenizer
from pretrain.recipes.small import demo_visual_tokenizer
from tests.support.tiny_run import TinyData

CPU = torch.device("cpu")


def job_of(settings: EvaluationConfig) -> VisualTokenizerTraining:
    job = VisualTokenizerTraining(replace(demo_visual_tokenizer(), evaluation=settings), CPU)
    job.teacher = load_teacher(job.config.teacher, job.config.model.patch_size, CPU)
    return job


def test_losses_and_codes_are_those_of_all_held_out_images(tiny_data: TinyData) -> None:
    job = job_of(EvaluationConfig(images=str(tiny_data.folder / "images"), num_samples=10, chunk_size=4))
    evaluation = VisualTokenizerEvaluation(job, True)
    network = load_visual_tokenizer(tiny_data.folder / "visual_tokenizer.pt")
    found = evaluation.figures(network, Ranks())
    assert tuple(found) == evaluation.names and evaluation.figures(network, Ranks()) == found
    images, _ = evaluation.images.images(range(10))
    with torch.no_grad():
        cosine, commitment, _ = network(*job.views(images))
    assert found["loss/cosine"] == pytest.approx(float(cosine), abs=1e-5)
    assert found["loss/total"] == pytest.approx(float(1 - cosine + commitment), abs=1e-5)
    codes = network.tokenize(images / 255).flatten()
    assert found["codebook/usage"] == len(codes.unique()) / 256
    assert 1 < found["codebook/perplexity"] <= len(codes.unique())
    network.codebook.is_initialized.fill_(False)
    assert evaluation.figures(network, Ranks()) == {}  # before the first step


def test_other_kinds_of_held_out_data_are_refused(tiny_data: TinyData) -> None:
    with pytest.raises(ValueError, match="is evaluated on images alone; give evaluation.images and no other folder"):
        evaluation_of_visual_tokenizer(job_of(EvaluationConfig(pairs="pairs")), True)
    assert evaluation_of_visual_tokenizer(job_of(EvaluationConfig()), True) is None
