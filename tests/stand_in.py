"""A stand-in for a GPU, in pure Python: a device whose tensors no operation may mix with the CPU's.

PyTorch lets Python register a backend for its spare device key. Each tensor of the device stands for one on the CPU,
which every operation is carried out on, so results are the CPU's. What a GPU would refuse (a CPU tensor among its own)
is refused, and what it would make the CPU wait for is counted in WAITS: numbers that are read, copies either way that
are not ``non_blocking``, and operations whose result has a size that only the device knows. Random numbers come from a
generator of its own, as dropout's do on a GPU. It says nothing of CUDA's kernels, speed, streams or graphs.

The device is registered for good, and before anything else takes a gradient: import this in a process of its own, as
tests/test_device.py does. ``Trainer(accelerator="standin", strategy="standin")`` trains on it.
"""

from collections import Counter
from contextlib import contextmanager, nullcontext

import torch
from lightning.pytorch.accelerators import Accelerator, AcceleratorRegistry
from lightning.pytorch.strategies import SingleDeviceStrategy, StrategyRegistry
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "standin"
WAITS = Counter()
aten = torch.ops.aten
behind = {}  # a storage on the device -> the CPU tensor that stands behind it
# their results have sizes that depend on values, so that CUDA's kernels wait to know them
SIZED_BY_VALUES = ("nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal", "repeat_interleave")
pickled = torch.Tensor.__reduce_ex__


class Generator(_DummyBackendModule):
    """The device's random numbers, under the names that torch.cuda has for them."""

    def __init__(self):
        self.state = torch.Generator().get_state()
        self.free = 1 << 30  # bytes

    def manual_seed_all(self, seed):
        self.state = torch.Generator().manual_seed(seed).get_state()

    def get_rng_state(self, device=NAME):
        return self.state.clone()

    def set_rng_state(self, state, device=NAME):
        self.state = state.clone()

    def mem_get_info(self, device=NAME):
        return self.free, 1 << 30

    @contextmanager
    def drawing(self):
        cpu = torch.get_rng_state()
        torch.set_rng_state(self.state)
        yield
        self.state = torch.get_rng_state()
        torch.set_rng_state(cpu)


class DeviceTensor(torch.Tensor):
    """A type of its own, so that nn.Parameter keeps it."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __deepcopy__(self, memo):
        copied = memo[id(self)] = self.detach().clone().requires_grad_(self.requires_grad)
        copied.__dict__.update(vars(self))  # that it is a parameter
        return copied


def is_ours(value):
    return isinstance(value, torch.Tensor) and value.device.type == NAME


def wrap(value):
    """The device's tensor that a CPU tensor shall stand behind."""
    if not isinstance(value, torch.Tensor):
        return value
    with torch.inference_mode(False):  # which knows no tensors of a Python backend
        ours = torch._C._acc.create_empty_tensor(value.size(), value.dtype)
    ours.__class__ = DeviceTensor
    behind[ours.untyped_storage()._cdata] = value  # autograd makes shallow copies, which share the storage
    return ours


def unwrap(value):
    return behind[value.untyped_storage()._cdata] if is_ours(value) else value


def fallback(op, *args, **kwargs):
    """Carries out an operation on the tensors behind."""
    name = op._schema.name.removeprefix("aten::")
    tensors = [value for value in tree_leaves((args, kwargs)) if torch.is_tensor(value)]
    for tensor in tensors:
        if not is_ours(tensor) and tensor.dim():  # numbers may come from the CPU, as they may on CUDA
            raise RuntimeError(f"{op}: expected all tensors on {NAME}, got one on the CPU, {tuple(tensor.shape)}")
    if name in SIZED_BY_VALUES or (name.startswith("index") and any(t.dtype == torch.bool for t in tensors[1:])):
        WAITS[name] += 1
    kwargs = {key: torch.device("cpu") if isinstance(value, torch.device) else value for key, value in kwargs.items()}
    seeded = torch.Tag.nondeterministic_seeded in op.tags
    with generator.drawing() if seeded else nullcontext(), torch.inference_mode(False), torch.no_grad():
        if name.startswith("_fused_"):  # reads memory in order, and tensors of ours do not tell their strides
            return fused(op, *args, **kwargs)
        out = op(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    for tensor in tensors:
        if tensor.shape != unwrap(tensor).shape:  # the operation made it as large as its result
            tensor.data = wrap(unwrap(tensor))
    same = {id(unwrap(tensor)): tensor for tensor in tensors if is_ours(tensor)}  # in-place: the very same back
    return tree_map(lambda value: same[id(value)] if id(value) in same else wrap(value), out)


def fused(op, *args, **kwargs):
    lists = [[unwrap(tensor) for tensor in arg] if isinstance(arg, list) else arg for arg in args]
    in_order = [[tensor.contiguous() for tensor in arg] if isinstance(arg, list) else arg for arg in lists]
    op(*in_order, **tree_map(unwrap, kwargs))
    for tensor, result in zip(tree_leaves(lists), tree_leaves(in_order), strict=True):
        if tensor is not result:
            tensor.copy_(result)


def copy_(target, source, non_blocking=False):
    if is_ours(target) != is_ours(source) and not non_blocking:
        WAITS["copy to the device" if is_ours(target) else "copy to the CPU"] += 1
    with torch.inference_mode(False), torch.no_grad():
        unwrap(target).copy_(unwrap(source))
    return target


def item(tensor):
    WAITS["item"] += 1
    return unwrap(tensor).item()


def direct(op):
    def run(*args, **kwargs):
        with torch.inference_mode(False), torch.no_grad():
            return tree_map(wrap, op(*tree_map(unwrap, args), **kwargs))

    return run


def convolution_backward(grad, images, weight, stride, padding, dilation, transposed, out_padding, groups, mask):
    options = stride, padding, dilation, transposed, out_padding, groups, mask
    bias = [weight.shape[0]] if mask[2] else None
    with torch.inference_mode(False), torch.no_grad():
        outs = aten.convolution_backward(*map(unwrap, (grad, images, weight)), bias, *options)
    return tuple(map(wrap, outs))


def pickled_from_the_cpu(tensor, protocol):
    if not is_ours(tensor):
        return pickled(tensor, protocol)
    WAITS["copy to the CPU"] += 1
    return unwrap(tensor).__reduce_ex__(protocol)


KERNELS = {
    "empty.memory_format": lambda size, dtype=None, **_: wrap(torch.empty(size, dtype=dtype)),
    "empty_strided": lambda size, stride, dtype=None, **_: wrap(torch.empty_strided(size, stride, dtype=dtype)),
    "copy_": copy_,
    "_copy_from": lambda source, target, non_blocking=False: copy_(target, source, non_blocking),
    "_local_scalar_dense": item,
    "convolution_overrideable": direct(aten.convolution.default),
    "convolution_backward_overrideable": convolution_backward,
}
for name in (
    "detach", "alias", "view", "_unsafe_view", "_reshape_alias", "t", "transpose.int", "permute", "squeeze.dim",
    "unsqueeze", "slice.Tensor", "select.int", "expand", "as_strided", "view.dtype", "abs", "isfinite", "isclose",
    "allclose",
):  # fmt: skip
    packet, _, overload = name.partition(".")
    KERNELS[name] = direct(getattr(getattr(aten, packet), overload or "default"))

generator = Generator()
_setup_privateuseone_for_python_backend(NAME, generator)
libraries = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")  # for as long as they are held
libraries[0].fallback(fallback, "PrivateUse1")
for name, kernel in KERNELS.items():
    libraries[1].impl(name, kernel, "PrivateUse1")
torch.Tensor.__reduce_ex__ = pickled_from_the_cpu


class StandInAccelerator(Accelerator):
    def setup_device(self, device): ...

    def teardown(self): ...

    def get_device_stats(self, device):
        return {}

    parse_devices = get_parallel_devices = staticmethod(lambda devices: [torch.device(NAME, 0)])
    auto_device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: True)
    name = staticmethod(lambda: NAME)


class StandIn(SingleDeviceStrategy):
    """Trains on the device."""

    def __init__(self):
        super().__init__(device=torch.device(NAME, 0))


AcceleratorRegistry.register(NAME, StandInAccelerator)
StrategyRegistry.register(NAME, StandIn)
