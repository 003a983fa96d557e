"""Row ranges of the experts in the packed (N, D) matrix.

The packed rows form groups of one kind (see model/layout.py); neighbouring groups may share an expert, so that every
expert owns one contiguous range.
"""

from dataclasses import dataclass

from torch import Tensor

MAX_GROUPS = 4


@dataclass(frozen=True)
class ExpertRows:
    """The end of each group of rows, and the expert of each group, in increasing order."""

    ends: tuple[int, ...]
    experts: tuple[int, ...]

    def __post_init__(self) -> None:
        assert 1 <= len(self.ends) == len(self.experts) <= MAX_GROUPS
        assert list(self.ends) == sorted(self.ends) and sorted({0, *self.experts}) == list(range(self.num_experts))

    @property
    def num_rows(self) -> int:
        return self.ends[-1]

    @property
    def num_experts(self) -> int:
        return self.experts[-1] + 1

    def slices(self) -> list[slice]:
        """Return the rows of each expert."""
        ends = [max(end for end, e in zip(self.ends, self.experts, strict=True) if e == expert)
                for expert in range(self.num_experts)]  # fmt: skip
        return [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split x (N, ...) into the rows of each expert.

        One split, because its backward is one concatenation; slices would each add a zero-padded (N, ...) gradient.
        """
        return x.split([rows.stop - rows.start for rows in self.slices()])
