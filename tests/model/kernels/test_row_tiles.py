"""Rows in registers as tiles. CPU, seconds."""

import pytest
import torch

from model.kernels.language import jit, tl
from model.kernels.row_tiles import (
    ROW_ELEMENTS,
    add_rows,
    load_row,
    row_tiles,
    row_warps,
    store_row,
    sum_row,
    zero_row,
)
from tests.support.kernels import DEVICE

pytest.importorskip("triton")


@jit
def _doubled_kernel(x_ptr, y_ptr, sum_ptr, WIDTH: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    columns = tl.arange(0, TILE)
    row = load_row(x_ptr, columns, WIDTH, TILES, TILE)
    store_row(y_ptr, columns, add_rows(add_rows(row, row, TILES), zero_row(TILES, TILE), TILES), WIDTH, TILES, TILE)
    tl.store(sum_ptr, sum_row(row, TILES))


@pytest.mark.parametrize(
    ("width", "expected"),
    [(1, (1, 1)), (3, (3, 1)), (768, (3, 256)), (1024, (1, 1024)), (6144, (3, 2048))],
)
def test_tiles_of_beit3s_widths_have_no_padding(width: int, expected: tuple[int, int]) -> None:
    assert row_tiles(width) == expected


@pytest.mark.parametrize(("width", "expected"), [(1, 1), (768, 1), (3072, 4), (4096, 8), (6144, 8), (8192, 16)])
def test_a_thread_has_few_enough_elements_for_its_registers_and_enough_for_16_bytes(width: int, expected: int) -> None:
    tiles, tile = row_tiles(width)
    warps = row_warps(tiles, tile)
    assert warps == expected
    assert tiles * tile <= ROW_ELEMENTS * 32 * warps
    assert width < 768 or tile // (32 * warps) >= 8  # bfloat16 elements


@pytest.mark.parametrize("width", [1, 3, 5, 96, 100, 129])
def test_a_row_in_tiles_is_the_row(width: int) -> None:
    x = torch.randn(width + 1, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    y, total = torch.full_like(x, torch.nan), torch.zeros(1, device=DEVICE)
    tiles, tile = row_tiles(width)
    _doubled_kernel[(1,)](x, y, total, WIDTH=width, TILES=tiles, TILE=tile)
    assert torch.equal(y[:width], 2 * x[:width]) and y[width:].isnan().all()
    torch.testing.assert_close(total[0], x[:width].sum())
