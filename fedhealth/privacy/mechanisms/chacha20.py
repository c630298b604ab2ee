"""ChaCha20 (RFC 8439) in tensor operations, so that cryptographic noise is generated on the GPU.

Generating it on the CPU and copying it would take longer than the training step, and torch's CUDA generator (Philox) is
not cryptographic. The same code runs on a CPU, where tests compare it with the `cryptography` package.
"""

import math
import os

import torch
from torch import Tensor

_AT_ONCE = 1 << 21  # values: a keystream starts 600 kernels, however short it is, and a model has many small tensors
_CONSTANTS = (0x61707865, 0x3320646E, 0x79622D32, 0x6B206574)


class ChaChaStream:
    """A keystream under a fresh key from the operating system.

    Args:
        device: where the words are generated.

    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._key = tuple(int.from_bytes(os.urandom(4), "little") for _ in range(8))
        self._block = 0
        self._ready = torch.zeros(0, dtype=torch.float64, device=device)

    def normal(self, count: int) -> Tensor:
        """Return [count] standard normal values, float64, none of which was returned before."""
        lacking = count - len(self._ready)
        if lacking > 0:
            self._ready = torch.cat([self._ready, self._generate(max(lacking, _AT_ONCE if self._is_gpu else 0))])
        taken, self._ready = self._ready[:count], self._ready[count:]
        return taken

    @property
    def _is_gpu(self) -> bool:
        return self._device.type == "cuda"

    def _generate(self, count: int) -> Tensor:
        """Return [count] new values by Box-Muller from uniforms of 63 bits."""
        pairs = (count + 1) // 2
        blocks = -(-pairs * 4 // 16)
        words = generate_keystream(self._key, self._block, blocks, self._device).flatten()[: pairs * 4]
        self._block += blocks
        bits = words.view(torch.int64) & (2**63 - 1)
        uniform = (bits.double() + 0.5) * 2.0**-63
        radius = (-2 * uniform[:pairs].log()).sqrt()
        angle = 2 * math.pi * uniform[pairs:]
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:count]


def generate_keystream(key: tuple[int, ...], first: int, blocks: int, device: torch.device) -> Tensor:
    """Return the ChaCha20 blocks with numbers first, first + 1, ... as words [blocks, 16], int32.

    Args:
        key: 8 words.
        first: number of the first block, counted in 64 bits; the other 64 bits of the nonce are zero, as the key is
            used for one stream only.
        blocks: number of blocks.
        device: of the result.

    """
    counter = torch.arange(first, first + blocks, device=device)
    initial = torch.zeros(16, blocks, dtype=torch.int32, device=device)
    for i, word in enumerate((*_CONSTANTS, *key)):
        initial[i] = _to_int32(word)
    initial[12], initial[13] = _get_low_word(counter), _get_low_word(counter >> 32)
    rows = [initial[4 * i : 4 * i + 4].clone() for i in range(4)]
    for _ in range(10):
        _apply_quarter_rounds(rows)
        rows = [row.roll(-i, 0) for i, row in enumerate(rows)]  # diagonals become columns
        _apply_quarter_rounds(rows)
        rows = [row.roll(i, 0) for i, row in enumerate(rows)]
    return (torch.cat(rows) + initial).T.contiguous()


def _apply_quarter_rounds(rows: list[Tensor]) -> None:
    """Apply the quarter round to the four columns at once; int32 addition wraps around, as ChaCha needs it."""
    a, b, c, d = rows
    for left, right in ((16, 12), (8, 7)):
        a += b
        d ^= a
        _rotate_left(d, left)
        c += d
        b ^= c
        _rotate_left(b, right)


def _rotate_left(x: Tensor, bits: int) -> None:
    low = (x >> (32 - bits)) & ((1 << bits) - 1)  # the shift keeps the sign; the mask drops it
    x <<= bits
    x |= low


def _to_int32(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


def _get_low_word(counter: Tensor) -> Tensor:
    """Return the low 32 bits as int32."""
    return (((counter & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000).int()
