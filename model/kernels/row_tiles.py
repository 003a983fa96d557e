"""A row of any width in a program's registers, as a tuple of equal tiles.

Triton's tiles are powers of two. A row of 6144 in one tile of 8192 would take a third more registers and instructions
than three tiles of 2048, and spill in backward, which also holds sums of gradients. The widths of BEiT-3's experts are
3 * 2^k or 2^k.
"""

from model.kernels.language import block_size, jit, tl

ROW_ELEMENTS = 24
"""Most elements of a row per thread: backward holds them and three sums, in 255 registers. With 32 it would spill."""


def row_tiles(width: int) -> tuple[int, int]:
    """Return the number of tiles of a row, 1 or 3, and the size of each, with the least padding."""
    return min([(1, block_size(width)), (3, block_size(-(-width // 3)))], key=lambda tiles: tiles[0] * tiles[1])


def row_warps(tiles: int, tile: int) -> int:
    """Return the number of warps of a program that holds one row: the fewest with at most ROW_ELEMENTS per thread.

    The fewer, the more of a tile is a thread's: from 8 bfloat16 elements on, loads and stores take 16 bytes. And what a
    row costs each warp beside its elements, two reductions among it, is shared by more of them.
    """
    return max(1, min(16, block_size(-(-tiles * tile // (32 * ROW_ELEMENTS)))))


@jit
def load_row(pointer, columns, WIDTH: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr):
    """Return TILES float32 tiles of a row, 0 past its end; columns: 0 .. TILE - 1."""
    row = ()
    for i in tl.static_range(TILES):
        values = tl.load(pointer + i * TILE + columns, mask=i * TILE + columns < WIDTH, other=0.0)
        row = row + (values.to(tl.float32),)
    return row


@jit
def store_row(pointer, columns, row, WIDTH: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr):
    for i in tl.static_range(TILES):
        tl.store(pointer + i * TILE + columns, row[i], mask=i * TILE + columns < WIDTH)


@jit
def zero_row(TILES: tl.constexpr, TILE: tl.constexpr):
    row = ()
    for _ in tl.static_range(TILES):
        row = row + (tl.zeros([TILE], tl.float32),)
    return row


@jit
def add_rows(a, b, TILES: tl.constexpr):
    row = ()
    for i in tl.static_range(TILES):
        row = row + (a[i] + b[i],)
    return row


@jit
def sum_row(row, TILES: tl.constexpr):
    """Return the sum of all elements. Tiles are added first, so that threads reduce once instead of once per tile."""
    total = row[0]
    for i in tl.static_range(TILES - 1):
        total += row[i + 1]
    return tl.sum(total, 0)
