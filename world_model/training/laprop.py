"""LaProp and adaptive gradient clipping, the optimiser of DreamerV3 (arXiv 2301.04104, appendix B).

LaProp (Ziyin et al., arXiv 2002.04839) takes the momentum of gradients that are already scaled, so that a small second
moment cannot blow up old ones:

    v <- b2 v + (1 - b2) g^2        m <- b1 m + (1 - b1) g / (sqrt(v / (1 - b2^t)) + eps)
    p <- p - lr (m / (1 - b1^t) + weight decay p)

Adaptive clipping (Brock et al., arXiv 2102.06171; here of a whole tensor, as in DreamerV3's code) limits the norm of a
gradient to a share of that of its parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

LEAST_NORM = 1e-3  # of a parameter that adaptive clipping counts with: one that begins at zero must be able to move


class LaProp(torch.optim.Optimizer):
    """See the module. Parameters without a gradient are left as they are."""

    def __init__(self, params: Any, lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-20) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step."""
        assert closure is None, "the loss is computed outside"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_tensor(parameter, group)

    def _step_tensor(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["momentum"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        (first, second), count = group["betas"], state["step"]
        square, momentum = state["square"], state["momentum"]
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scaled = gradient / ((square / (1 - second**count)).sqrt_() + group["eps"])
        momentum.lerp_(scaled, 1 - first)
        update = momentum / (1 - first**count)
        parameter.sub_(group["lr"] * (update + group["weight_decay"] * parameter))


@torch.no_grad()
def clip_adaptively(parameters: Iterable[Tensor], share: float) -> None:
    """Scale every gradient whose norm is more than `share` of its parameter's down to that."""
    for parameter in parameters:
        if parameter.grad is not None:
            limit = share * parameter.norm().clamp_min(LEAST_NORM)
            parameter.grad.mul_((limit / parameter.grad.norm().clamp_min(1e-30)).clamp_max(1.0))
