"""A training step as a straight line: forward, loss and gradients traced once, then the optimizer's kernel.

A loop over small batches spends as much on finding out what to do as on doing it: autograd builds a graph and walks it,
and the optimizer goes through its bookkeeping. Both come out the same for each batch of one shape. So ``make_fx``
records the ATen calls of one step (0.1 s; no compiler), which then run without autograd: the same kernels in the same
order, and so the same bits. Nothing here knows of MNIST or of Lightning: the file can be taken along.

What it relies on, and tests/test_traced.py holds: ``make_fx`` (in ``torch.fx.experimental``) and the fused kernels
``torch._fused_adam_``, ``_fused_adamw_`` and ``_fused_sgd_``, as ``torch.optim`` calls them from 2.11 to 2.13.
"""

import logging
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import SGD, Adam, AdamW, Optimizer

log = logging.getLogger(__name__)
aten = torch.ops.aten

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
MODULE_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
PARAMETER_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class UntraceableError(Exception):
    """Why a step can only be taken by autograd."""


def trace_step(
    net: nn.Module,
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: Optimizer,
    inputs: Tensor,
    targets: Tensor,
    change_gradients: Callable[[], None] | None = None,
) -> Step:
    """Returns a function that takes one optimizer step: (inputs, targets) -> (loss, outputs), both detached.

    It holds for as long as :func:`fingerprint` stays what it was with the example. Random numbers are drawn and buffers
    change as in an ordinary step; the example changes neither net nor optimizer.

    Args:
        net: What is trained, in training mode.
        loss: Maps outputs and targets to a scalar.
        optimizer: Of the parameters of the net that need gradients. Its state is used in place.
        inputs: An example batch.
        targets: An example batch.
        change_gradients: What is done between the gradients, which it finds in ``.grad``, and the step.

    Raises:
        UntraceableError: Somebody looks at gradients or at layers, or the net can't be traced.
    """
    parameters: list[Tensor] = [parameter for parameter in net.parameters() if parameter.requires_grad]
    _refuse_watchers(net, inputs.device)
    gradients = _trace(net, loss, inputs, targets)
    update = _update(optimizer, parameters)
    tensors = [*net.parameters(), *net.buffers()]

    @torch.no_grad()
    def step(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        *grads, value, outputs = gradients(*tensors, inputs, targets)
        if change_gradients:
            _give(parameters, grads)
            change_gradients()
        update(grads)
        return value, outputs

    return step


def _refuse_watchers(net: nn.Module, device: torch.device) -> None:
    if any(_hooks(net)):
        raise UntraceableError("expected no hooks on modules and parameters, which a traced step cannot call")
    if torch.is_autocast_enabled(device.type):
        raise UntraceableError("expected no mixed precision, which a traced step cannot follow")
    if torch.is_anomaly_enabled():
        raise UntraceableError("expected no detection of anomalies, which watches autograd")


class StepTracer:
    """Traces a step for each kind of batch that comes, and again when what the trace has fixed changes.

    Args:
        net, loss, optimizer, change_gradients: As for :func:`trace_step`.
        required: Whether a step that cannot be traced is an error.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        optimizer: Optimizer,
        change_gradients: Callable[[], None] | None = None,
        required: bool = False,
    ) -> None:
        self.net, self.loss, self.optimizer, self.change_gradients = net, loss, optimizer, change_gradients
        self.required = required
        self._steps: dict[Hashable, Step | None] = {}

    def step_for(self, inputs: Tensor, targets: Tensor) -> Step | None:
        """Returns the traced step for batches like this one, or None where there can be none: a debug log says why.

        Raises:
            UntraceableError: There can be none, where it is required.
        """
        key = fingerprint(self.net, inputs, targets)
        if key not in self._steps:
            try:
                traced = trace_step(self.net, self.loss, self.optimizer, inputs, targets, self.change_gradients)
            except UntraceableError as error:
                if self.required:
                    raise
                traced = None
                log.debug("steps are left to autograd: %s", error)
            self._steps[key] = traced
        return self._steps[key]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_steps": {}}  # functions that can't be pickled, and are soon made again


def fingerprint(net: nn.Module, inputs: Tensor, targets: Tensor) -> Hashable:
    """What a trace has fixed: shapes and types, hooks, and each module's plain values, such as Dropout's ``p``."""
    plain = (bool, int, float, str, tuple, type(None))
    return (
        *((tensor.shape, tensor.dtype, tensor.device) for tensor in (inputs, targets)),
        torch.is_autocast_enabled(inputs.device.type),
        torch.is_anomaly_enabled(),
        *((id(parameter), parameter.requires_grad) for parameter in net.parameters()),
        *_hooks(net),
        *(value for module in net.modules() for value in vars(module).values() if isinstance(value, plain)),
    )


def _hooks(net: nn.Module) -> Iterator[bool]:
    """Whether somebody looks at modules or at gradients, for each of them."""
    for module in net.modules():
        yield any(getattr(module, hooks) for hooks in MODULE_HOOKS)
    for parameter in net.parameters():
        yield any(getattr(parameter, hooks) for hooks in PARAMETER_HOOKS)


def _trace(
    net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor
) -> Callable[..., tuple[Tensor, ...]]:
    """Returns (*parameters, *buffers, inputs, targets) -> (*gradients, loss, outputs)."""
    names = [name for name, _ in (*net.named_parameters(), *net.named_buffers())]
    learned = [parameter.requires_grad for parameter in net.parameters()]

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        *values, inputs, targets = tensors
        outputs = functional_call(net, dict(zip(names, values, strict=True)), (inputs,))
        value = loss(outputs, targets)
        parameters = [tensor for tensor, learns in zip(values, learned, strict=False) if learns]
        found = torch.autograd.grad(value, parameters)
        # in the layout of its parameter, as autograd leaves it, for the fused kernels go through both side by side
        grads = (
            grad if grad.stride() == parameter.stride() else torch.empty_like(parameter).copy_(grad)
            for grad, parameter in zip(found, parameters, strict=True)
        )
        return (*grads, value.detach(), outputs.detach())

    parameters = [p.detach().clone().requires_grad_(p.requires_grad) for p in net.parameters()]
    buffers = [buffer.clone() for buffer in net.buffers()]
    try:
        with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []), torch.enable_grad():
            module = make_fx(step)(*parameters, *buffers, inputs, targets)
    except Exception as error:  # whatever a net may do that can't be recorded
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UntraceableError(f"expected a step that can be traced, got one that cannot: {reason}") from error
    return _straight(module)


def _straight(module: fx.GraphModule) -> Callable[..., tuple[Tensor, ...]]:
    """Takes from a trace what only autograd needed, and returns the function that it is."""
    module.graph.set_codegen(fx.graph.CodeGen())  # plain arguments: no pytree in each call
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
        elif node.op == "call_function" and node.target is aten.t.default and node.args[0].target is aten.t.default:
            node.replace_all_uses_with(node.args[0].args[0])
    module.graph.eliminate_dead_code()
    module.recompile()
    return module.forward


def _give(parameters: list[Tensor], grads: list[Tensor]) -> None:
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad


def _update(optimizer: Optimizer, parameters: list[Tensor]) -> Callable[[list[Tensor]], None]:
    """Returns what changes the parameters by their gradients: the optimizer's step, or, where it can be, its kernel."""
    kernel = _kernel(optimizer, parameters)
    before, after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks

    def update(grads: list[Tensor]) -> None:
        begun = all(optimizer.state.get(parameter) for parameter in parameters)  # the first step makes the state
        if kernel and begun and not before and not after:
            kernel(grads)
        else:
            _give(parameters, grads)
            optimizer.step()

    return update


def _kernel(optimizer: Optimizer, parameters: list[Tensor]) -> Callable[[list[Tensor]], None] | None:
    """Returns the call of a fused kernel that an optimizer's step comes down to; None where it does more."""
    group, *others = optimizer.param_groups
    special = any(group.get(name) for name in ("amsgrad", "maximize", "capturable", "differentiable"))
    if others or special or not group.get("fused"):
        return None
    one = torch.ones((), device=parameters[0].device)

    def state(name: str) -> list[Tensor]:
        return [optimizer.state[parameter][name] for parameter in parameters]

    def adam(grads: list[Tensor]) -> None:
        for count in (counts := state("step")):
            count.add_(one)
        options = {"lr": group["lr"], "beta1": group["betas"][0], "beta2": group["betas"][1], "eps": group["eps"]}
        options |= {"weight_decay": group["weight_decay"], "amsgrad": False, "maximize": False}
        fused(parameters, grads, state("exp_avg"), state("exp_avg_sq"), [], counts, **options)

    def sgd(grads: list[Tensor]) -> None:
        options = {name: group[name] for name in ("lr", "weight_decay", "momentum", "dampening", "nesterov")}
        torch._fused_sgd_(parameters, grads, state("momentum_buffer"), **options, maximize=False, is_first_step=False)

    fused = torch._fused_adamw_ if type(optimizer) is AdamW else torch._fused_adam_
    return {Adam: adam, AdamW: adam, SGD: sgd}.get(type(optimizer))
