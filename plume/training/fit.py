"""How many sequences fit into a micro-batch, when the user does not say (DESIGN section 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch

# On a CPU larger micro-batches bring no speed beyond some thousand tokens, and their activations leave the cache.
CPU_TOKENS = 4096
ROOM = 0.9  # of a GPU's memory: batches differ, and the allocator needs slack


def microbatch_size(
    batch_size: int, length: int, ranks: int, device: torch.device, trial: Callable[[int], None]
) -> int:
    """The micro-batch size to use for windows of ``length`` tokens.

    A pure function of its arguments on a CPU. On a GPU ``trial(size)`` runs one micro-batch forward and backward;
    the size is halved until that fits with room to spare.
    """
    most = max(1, batch_size // ranks)
    if device.type != "cuda":
        return _even(batch_size, min(most, max(1, CPU_TOKENS // length)))
    while most > 1:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            trial(most)
            total = torch.cuda.get_device_properties(device).total_memory
            if torch.cuda.max_memory_reserved(device) <= ROOM * total:
                break
        except torch.OutOfMemoryError:
            pass
        most = -(-most // 2)
    torch.cuda.empty_cache()
    return _even(batch_size, most)


def _even(batch_size: int, most: int) -> int:
    """The largest size up to ``most`` that divides the batch, unless that is much smaller.

    >>> _even(256, 100), _even(7, 5)
    (64, 5)
    """
    even = next(size for size in range(most, 0, -1) if batch_size % size == 0)
    return even if 2 * even >= most else most
