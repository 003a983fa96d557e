import pytest
import torch

from model.masking import block_image_masks
from tests.kernels import digest

SAMPLE_IDS = torch.cat([torch.arange(500), torch.tensor([2**31, 2**32 - 1, 2**32, 2**40 + 1, 2**62 + 12345])])


# written at commit 42f6e21 on a CPU; masks are part of a run's definition: never renew
@pytest.mark.parametrize(
    ("seed", "grid_size", "num_masked", "min_block", "expected"),
    [
        (0, 14, 75, 16, "0cc64366d35cc22b"),
        (0, 14, 1, 16, "33942f866535ba24"),
        (0, 14, 75, 100, "8c8c164ffa746ae8"),
        (7, 16, 102, 16, "52598adc4c65d8cc"),
        (7, 14, 150, 1, "cd574e260579e47a"),
        (2**31 + 5, 37, 548, 16, "903f1ea56ee464c6"),
        (2**40 + 3, 14, 75, 16, "b67618716b71aeb7"),
        (2**63 + 11, 8, 64, 4, "8cf829f6634aca1c"),
        (-5, 6, 14, 3, "49353ecd78de12e3"),
    ],
)
def test_masks_are_the_same_bits_as_ever(
    seed: int, grid_size: int, num_masked: int, min_block: int, expected: str
) -> None:
    assert digest(block_image_masks(seed, SAMPLE_IDS, grid_size, num_masked, min_block)) == expected
