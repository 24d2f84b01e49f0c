"""What makes the host wait for the device, counted."""

import torch
from torch.overrides import TorchFunctionMode

WAITING = {"item", "tolist", "__bool__", "__float__", "__int__", "nonzero", "numpy", "cpu", "equal"}


class Watch(TorchFunctionMode):
    """Counts what makes the host wait for the device: reading a number, or a shape that depends on one."""

    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        by_mask = func.__name__ == "__getitem__" and getattr(args[1], "dtype", None) == torch.bool
        self.count += func.__name__ in WAITING or by_mask
        return func(*args, **(kwargs or {}))
