"""The normal distribution: samples that never change between releases of numpy, and its tail for arrays."""

from __future__ import annotations

import functools
import math
from typing import Final

import numpy as np
import numpy.typing as npt

from fuseline.device.silicon.puf.types import Floats

_STEP: Final = 1 / 256
_LIMIT: Final = 12.0
"""Beyond this many sigma the tail is below 1.8e-33 and taken as nothing."""


def standard_normals(seed: int, stream: int, count: int) -> npt.NDArray[np.float32]:
    """Draw standard normal samples.

    numpy keeps the raw output of PCG64 stable for ever, but not its distributions (NEP 19). A chip must
    have the same cells after an upgrade, so the transform is made here: Box and Muller, 1958, from two
    32-bit uniforms a pair.

    Args:
        seed: Of the chip.
        stream: Which of the chip's independent streams.
        count: How many; even.

    Returns:
        `count` samples; none is beyond 6.7 sigma, as 32-bit uniforms have it.
    """
    generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(stream,)))
    uniforms = generator.random_raw(count // 2).view(np.uint32).reshape(-1, 2)
    radius = np.sqrt(-2.0 * np.log((uniforms[:, 0] + 1.0) * 2.0**-32))
    angle = uniforms[:, 1] * (2.0 * math.pi * 2.0**-32)
    samples = np.empty(count, np.float32)
    samples[0::2] = radius * np.cos(angle)
    samples[1::2] = radius * np.sin(angle)
    return samples


@functools.cache
def _nodes() -> tuple[Floats, Floats]:
    nodes = [index * _STEP for index in range(int(_LIMIT / _STEP) + 2)]
    tails = np.array([math.erfc(node / math.sqrt(2.0)) / 2.0 for node in nodes])
    densities = np.array([math.exp(-node * node / 2.0) / math.sqrt(2.0 * math.pi) for node in nodes])
    return tails, densities


def upper_tail(z: npt.ArrayLike) -> Floats:
    """Return Q(z), the probability that a standard normal exceeds `z`, for each element.

    A Taylor step of third order from the nearest node of a table: within 1e-12 of the truth, and within
    1e-7 of its own size out to twelve sigma.
    """
    values = np.asarray(z, np.float64)
    size = np.minimum(np.abs(values), _LIMIT)
    index = (size / _STEP + 0.5).astype(np.intp)
    node = index * _STEP
    step = size - node
    tails, densities = _nodes()
    slope = step * (1.0 - step * (node / 2.0 - step * (node * node - 1.0) / 6.0))
    tail = np.where(size < _LIMIT, tails[index] - densities[index] * slope, 0.0)
    result: Floats = np.where(values < 0, 1.0 - tail, tail)
    return result
