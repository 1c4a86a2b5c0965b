"""A training step as a straight line: forward, loss and gradients recorded once, then the optimizer's kernel.

A loop over small batches spends as much on finding out what to do as on doing it: autograd's graph, the optimizer's
bookkeeping. Both come out the same for each batch of one shape. So the ATen calls of one step are recorded (no
compiler), and then run without autograd: the same kernels in the same order, and so the same bits. Nothing here knows
of MNIST or of Lightning: the file can be taken along.

It relies on ``TorchDispatchMode`` and on the kernels ``torch._fused_adam_``, ``_fused_adamw_`` and ``_fused_sgd_`` as
``torch.optim`` calls them from 2.11 to 2.13; tests/test_traced.py holds both.
"""

import copy
import logging
import random
from collections.abc import Callable, Hashable, Iterator, Sequence
from operator import getitem
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim import optimizer as optim
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

log = logging.getLogger(__name__)

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Line = Callable[..., tuple[Tensor, ...]]
Change = Callable[[], None] | None
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class UntraceableError(Exception):
    """Why a step can only be taken by autograd."""


class StepTracer:
    """Records a step for each kind of batch that comes, and again when what the record has fixed changes.

    Args:
        net: What is trained, in training mode.
        loss: Maps outputs and targets to a scalar.
        optimizer: Of the parameters of the net that need gradients.
        change_gradients: What is done between the gradients, which it finds in ``.grad``, and the step.
        required: Whether a step that cannot be traced is an error.
    """

    def __init__(
        self, net: nn.Module, loss: Loss, optimizer: Optimizer, change_gradients: Change = None, required: bool = False
    ) -> None:
        self.net, self.loss, self.optimizer, self.change_gradients = net, loss, optimizer, change_gradients
        self.required, self._refused = required, False
        self._lines: dict[Hashable, Line] = {}

    def step_for(self, inputs: Tensor, targets: Tensor) -> Step | None:
        """Returns a function that takes a step with batches like this one: (inputs, targets) -> (loss, outputs).

        It changes parameters, buffers, the optimizer's state and the random generator as an ordinary step does. It is
        good until net or optimizer are changed otherwise: ask again now and then. None where there can be none: a debug
        log says why, or where it is required an UntraceableError.
        """
        key = fingerprint(self.net, inputs, targets)
        if key not in self._lines and not self._refused:
            try:
                self._lines[key] = _record(self.net, self.loss, inputs, targets)
            except UntraceableError as error:
                if self.required:
                    raise
                self._refused = True
                log.debug("steps are left to autograd: %s", error)
        return _step(line, self.net, self.optimizer, self.change_gradients) if (line := self._lines.get(key)) else None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_lines": {}}  # functions that can't be pickled, and are soon made again


def fingerprint(net: nn.Module, inputs: Tensor, targets: Tensor) -> Hashable:
    """What a record has fixed: kinds of tensors, hooks, modules, and their plain values, such as Dropout's ``p``."""
    plain = (bool, int, float, str, tuple, type(None), FunctionType, BuiltinFunctionType)
    return (
        *((t.shape, t.stride(), t.dtype, t.device, t.requires_grad) for t in (inputs, targets, *tensors_of(net))),
        torch.is_autocast_enabled(inputs.device.type),
        torch.is_anomaly_enabled(),
        any(_hooks(net)),
        *((module, *(v for v in vars(module).values() if isinstance(v, plain))) for module in net.modules()),
    )


def tensors_of(net: nn.Module) -> list[Tensor]:
    return [*net.parameters(), *net.buffers()]


def _hooks(net: nn.Module) -> Iterator[Any]:
    """What looks at modules or at gradients, and could not at a traced step."""
    yield nn.modules.module._has_any_global_hook()
    yield from (getattr(module, hooks) for module in net.modules() for hooks in MODULE_HOOKS)
    yield from (getattr(parameter, hooks) for parameter in net.parameters() for hooks in PARAMETER_HOOKS)


def _record(net: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor) -> Line:
    """Takes a step with a copy: its calls as a function of all tensors to the gradients needed, loss and outputs."""
    if torch.is_autocast_enabled(inputs.device.type) or torch.is_anomaly_enabled() or any(_hooks(net)):
        raise UntraceableError("expected no hooks, no mixed precision and no detection of anomalies")
    try:
        net, inputs, targets = copy.deepcopy(net), inputs.clone(), targets.clone()
        recorder = _Recorder([*tensors_of(net), inputs, targets])
        before = fingerprint(net, inputs, targets), random.getstate(), str(np.random.get_state())
        kind = inputs.device.type
        others = [] if kind in ("cpu", "mps") else [inputs.device]  # the CPU's comes by itself, and MPS's has no fork
        with torch.random.fork_rng(others, device_type=kind), torch.enable_grad(), recorder, _Guard():
            outputs = net(inputs)
            value = loss(outputs, targets)
            gradients = _gradients(value, [parameter for parameter in net.parameters() if parameter.requires_grad])
        line = recorder.line(*gradients, value, outputs)
    except Exception as error:  # whatever a net may do that can't be recorded
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UntraceableError(f"expected a step that can be traced, got one that cannot: {reason}") from error
    if before != (fingerprint(net, inputs, targets), random.getstate(), str(np.random.get_state())):
        raise UntraceableError("expected a net that keeps no count of its steps, and no chance but PyTorch's")
    return line


def _gradients(loss: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """The gradients, each laid out as its parameter: so autograd does, as kernels go through both side by side."""
    return [
        grad if grad.stride() == parameter.stride() else torch.empty_like(parameter).copy_(grad)
        for grad, parameter in zip(torch.autograd.grad(loss, parameters), parameters, strict=True)
    ]


class _Guard(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.tolist, Tensor.numpy, Tensor.__array__):
            raise UntraceableError(f"{function.__name__} looks at values")  # without an ATen call
        return function(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    """Writes down the ATen calls that are made, in terms of some tensors."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = fx.Graph()
        self._kept = list(tensors)  # so that no other tensor gets their ids
        self._nodes = {id(tensor): self.graph.placeholder(f"x{n}") for n, tensor in enumerate(tensors)}

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*call.tags}:
            raise UntraceableError(f"{call} looks at values")
        result = call(*args, **(kwargs or {}))
        if call is torch.ops.aten.detach.default:  # what only autograd needs
            node = self._node(args[0])
        else:
            arguments, options = map_aggregate((args, kwargs or {}), self._node)
            node = self.graph.call_function(call, arguments, options)
        several = isinstance(result, tuple | list)
        for number, tensor in enumerate(result if several else [result]):
            if isinstance(tensor, Tensor):
                self._kept.append(tensor)
                self._nodes[id(tensor)] = self.graph.call_function(getitem, (node, number)) if several else node
        return result

    def _node(self, value: Any) -> Any:
        if isinstance(value, Tensor) and id(value) not in self._nodes:
            raise UntraceableError("a tensor is neither parameter, buffer nor batch, nor made of these")
        return self._nodes[id(value)] if isinstance(value, Tensor) else value

    def line(self, *results: Tensor) -> Line:
        """Returns the function of the tensors that has these results."""
        self.graph.output(tuple(map(self._node, results)))
        t = torch.ops.aten.t.default
        for node in self.graph.nodes:  # autograd transposes each weight's gradient there and back
            if node.target is t and node.args[0].target is t:
                node.replace_all_uses_with(node.args[0].args[0])
        self.graph.eliminate_dead_code()  # knows of ATen's calls alone which ones change a tensor
        for node in self.graph.nodes:
            node.target = _quick(node.target)
        line: Line = fx.GraphModule(nn.Module(), self.graph).forward
        return line


def _quick(call: Any) -> Any:
    """PyTorch's own function for an ATen call, where it has one: it finds the same kernel in a third of the time."""
    name = call.__name__.split(".")[0] if getattr(call, "namespace", None) == "aten" else ""
    quick = getattr(torch, name, None) or getattr(Tensor, name, None)
    return quick if isinstance(quick, BuiltinFunctionType | MethodDescriptorType) else call


def _step(line: Line, net: nn.Module, optimizer: Optimizer, change_gradients: Change) -> Step:
    """Returns the step that a line is a part of, with the tensors of net and optimizer as they are now."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    tensors = [tensor.detach() for tensor in tensors_of(net)]  # so that nothing asks for a graph
    kernel = _kernel(optimizer, parameters)
    optimizer.zero_grad()  # once, as none are left here: one of a parameter that is frozen by now would count
    hooks = [*optimizer._optimizer_step_post_hooks.values(), *optim._global_optimizer_post_hooks.values()]

    def step(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal kernel
        *gradients, value, outputs = line(*tensors, inputs, targets)
        if change_gradients or hooks or not kernel:
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        if change_gradients:
            change_gradients()
        if kernel:
            kernel(gradients)
            for hook in hooks:
                hook(optimizer, (optimizer,), {})
        else:
            optimizer.step()
            kernel = _kernel(optimizer, parameters)  # a first step makes the state
        return value, outputs

    return step


def _kernel(optimizer: Optimizer, parameters: Sequence[Tensor]) -> Callable[[list[Tensor]], None] | None:
    """Returns the call of a fused kernel that a step comes down to; None where it does more, or has no state yet."""
    group, *others = optimizer.param_groups
    special = any(group.get(name) for name in ("amsgrad", "maximize", "capturable", "differentiable"))
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    known = type(optimizer) in (Adam, AdamW, SGD) and group.get("fused") and all(states)
    if others or special or not known or optimizer._optimizer_step_pre_hooks or optim._global_optimizer_pre_hooks:
        return None
    values = [parameter.detach() for parameter in parameters]
    one = torch.ones((), device=values[0].device)

    def sgd(gradients: list[Tensor]) -> None:
        options = {key: group[key] for key in ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")}
        torch._fused_sgd_(values, gradients, buffers, **options, is_first_step=False)

    def adam(gradients: list[Tensor]) -> None:
        for count in counts:
            count.add_(one)
        options = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
        first, second = group["betas"]
        fused(values, gradients, means, squares, [], counts, beta1=first, beta2=second, **options)

    if type(optimizer) is SGD:
        buffers = [state["momentum_buffer"] for state in states]
        return sgd
    counts, means, squares = ([state[name] for state in states] for name in ("step", "exp_avg", "exp_avg_sq"))
    fused = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
    return adam
