"""Data settings: sources as the command line gives them, and the global batch in words."""

from data_pipeline.loading.config import SamplesPerStep


def test_a_step_is_described_in_words() -> None:
    assert str(SamplesPerStep(16, 4, 8)) == "16 images, 4 pairs and 8 texts"
    assert str(SamplesPerStep(0, 4, 8)) == "4 pairs and 8 texts" and str(SamplesPerStep(0, 0, 8)) == "8 texts"
