"""Tensors that say they are on a GPU and compute on the CPU, where there is no GPU.

What a GPU refuses is refused here, too: arithmetic between what is on it and what is not, and
reading its memory as an array. Speed and rounding are not a GPU's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_ATEN = torch.ops.aten
# Between devices, or with indices from elsewhere.
_CROSSING = (_ATEN._to_copy, _ATEN.copy_, _ATEN.index, _ATEN.index_put_, _ATEN.index_put)


def _dispatched(
    _: Any,
    function: Any,
    types: Sequence[type],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    return _computed(function, args, kwargs or {})


class OnPretendGpu(torch.Tensor):
    """A tensor whose memory is another one's, on the CPU."""

    @staticmethod
    def __new__(cls, memory: torch.Tensor) -> OnPretendGpu:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            memory.size(),
            strides=memory.stride(),
            storage_offset=memory.storage_offset(),
            dtype=memory.dtype,
            # What torch's own machinery meets: it would look for a GPU's driver otherwise.
            device="meta",
        )

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory = memory

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it says it is."""
        return torch.device("cuda:0")

    is_meta = False
    is_cuda = True

    def tolist(self) -> Any:
        """Its values."""
        return self.memory.tolist()

    __torch_dispatch__ = classmethod(_dispatched)


class _PretendGpu(TorchDispatchMode):
    __torch_dispatch__ = _dispatched


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """Within it, torch has a GPU."""
    empty, tensor = torch.empty, torch.tensor
    torch._C._ensureCUDADeviceGuardSet()
    # Kept by torch from its first use on, and to be kept without what is patched here.
    _device_constructors()
    with (
        patch.object(torch.cuda, "_lazy_init", lambda: None),
        _PretendGpu(),
        # Not put into the parameter that is there, which would keep its former memory.
        patch.object(torch.__future__, "_overwrite_module_params_on_conversion", True),
        # Whose tensors cannot be wrapped.
        patch.object(torch._C, "_InferenceMode", lambda on: torch.set_grad_enabled(not on)),
        patch.object(torch.cuda, "is_available", lambda: True),
        patch.object(torch.cuda, "is_bf16_supported", lambda *_: True),
        patch.object(torch.cuda, "get_rng_state_all", list),
        patch.object(torch, "tensor", lambda *a, device=None, **kw: tensor(*a, **kw).to(device)),
        patch.object(torch, "empty", lambda *a, pin_memory=False, **kw: empty(*a, **kw)),
    ):
        yield


def _computed(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if function is _ATEN._fused_sdp_choice.default:
        return 0
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    on_it = [isinstance(one, OnPretendGpu) for one in tensors]
    if function.overloadpacket not in _CROSSING:
        places = {here for here, one in zip(on_it, tensors, strict=True) if one.ndim}
        if len(places) == 2:
            raise RuntimeError(f"{function}: tensors on the GPU and tensors on the CPU")
    elif function.overloadpacket in _CROSSING[2:] and on_it and any(on_it[1:]) and not on_it[0]:
        raise RuntimeError(f"{function}: indices on the GPU of a tensor on the CPU")
    device = torch.device(kwargs.get("device") or "meta").type
    there = device == "cuda" or (device == "meta" and any(on_it))
    if device == "meta" and function is _ATEN.scalar_tensor.default:
        # Torch's own arithmetic makes its constants where its operands are.
        there = True
    if function.overloadpacket is _ATEN.copy_:
        there = on_it[0]
    inner_args, inner_kwargs = tree_map(_memory, (args, dict(kwargs)))
    if there and inner_kwargs.get("device") is not None:
        inner_kwargs["device"] = torch.device("cpu")
    found = function(*inner_args, **inner_kwargs)
    if not there:
        return found
    # What was changed in its place is the same tensor still.
    same = {id(one.memory): one for one in tensors if isinstance(one, OnPretendGpu)}

    def wrapped(one: Any) -> Any:
        if type(one) is not torch.Tensor:
            return one
        return same[id(one)] if id(one) in same else OnPretendGpu(one)

    return tree_map(wrapped, found)


def _memory(one: Any) -> Any:
    return one.memory if isinstance(one, OnPretendGpu) else one
