"""From a network, or a list of its stages, to its graph: traced with `torch.fx`, blocks kept as leaves.

Only the root, plain `nn.Sequential`s and modules that hold repeated blocks are opened.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import fx, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from eenet.backbones.cost import eval_mode

WAY_OUT = (
    "as a way out, give the network as a list of its stages, "
    "[stage0, stage1, ..., classifier]: exits can go between them, nothing inside is traced"
)


class StageList(nn.Sequential):
    """Stages that the user gave as a list: each is one block, whatever it does inside."""


def as_module(backbone: object) -> nn.Module:
    """The network to be cut: lists become a `StageList`, wrappers are taken off.

    Raises:
        ValueError: not a network, or not one that can run here: a class instead of an
            instance, TorchScript, compiled blocks, uninitialised weights, 1D or 3D.
    """
    if isinstance(backbone, Sequence | nn.ModuleList) and not isinstance(backbone, str):
        stages = list(backbone)
        for k, stage in enumerate(stages):
            if not isinstance(stage, nn.Module):
                raise ValueError(f"stage {k} of the list is {_shown(stage)}; expected an nn.Module")
        if not stages:
            raise ValueError("the list of stages is empty; expected [stage0, stage1, ..., classifier]")
        module: nn.Module = StageList(*map(_unwrapped, stages))
        modes = {stage.training for stage in module}
        module.training = True in modes
    elif isinstance(backbone, nn.Module):
        module = _unwrapped(backbone)
    else:
        raise ValueError(
            f"the backbone is {_shown(backbone)}; expected an nn.Module or a list of stages, "
            "each an nn.Module (for a timm name use create_model)"
        )
    _check(module)
    return module


def describe(module: nn.Module) -> str:
    """What an error message calls the network."""
    return "this list of stages" if isinstance(module, StageList) else f"this {type(module).__name__}"


def first_line(error: Exception) -> str:
    """An error's message, without the pages that may follow."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _shown(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} itself, not an instance"
    return f"{value!r}" if isinstance(value, str) else f"of type {type(value).__name__}"


def _unwrapped(module: nn.Module) -> nn.Module:
    """Without `DataParallel` and `torch.compile` around it: they can go around the stages again."""
    while True:
        compiled = getattr(module, "_orig_mod", None)  # torch.compile's class is slow to import
        if isinstance(module, DataParallel | DistributedDataParallel):
            module = module.module
        elif isinstance(compiled, nn.Module):
            module = compiled
        else:
            return module


def _check(module: nn.Module) -> None:
    kinds = {type(part).__name__ for part in module.modules()}
    for name, part in module.named_modules():
        place = f"its block {name!r}" if name else "it"
        if "ScriptModule" in type(part).__name__:
            raise ValueError(f"{describe(module)}: {place} is TorchScript; give the network before scripting")
        # Compiled kernels round differently, and hide their MACs.
        if isinstance(getattr(part, "_orig_mod", None), nn.Module) or part._compiled_call_impl is not None:
            raise ValueError(
                f"{describe(module)}: {place} is compiled; give the network before torch.compile, "
                "and compile the early-exit network"
            )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise ValueError(
                f"{describe(module)} has an uninitialised lazy layer ({name}); run it once on an image first"
            )
        if tensor.is_meta:
            raise ValueError(
                f"{describe(module)} has a weight without values ({name} is on the meta device); "
                "load its weights first"
            )
    others = sorted(kinds & {"Conv1d", "Conv3d"})
    if others and not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        raise ValueError(
            f"{describe(module)} has {others[0]} layers and no Conv2d; expected a network on images "
            "[B, C, H, W]"
        )


# Tracing -----------------------------------------------------------------------------


class _BlockTracer(fx.Tracer):
    """Keeps blocks as leaves and opens the modules for which `opens` is true."""

    def __init__(self, opens: Callable[[nn.Module], bool]) -> None:
        super().__init__()
        self.opens = opens

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
        return not self.opens(m)

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,  # noqa: ARG002
        concrete_args: object = None,  # noqa: ARG002
    ) -> tuple[Any, list[Any]]:
        """The images alone: other arguments keep their defaults, which a placeholder would hide."""
        return root_fn, [self.root, self.create_proxy("placeholder", "images", (), {})]


def trace_graphs(backbone: nn.Module) -> list[fx.GraphModule]:
    """Trace with plain containers opened, and, where there are any, with repeated blocks opened.

    Neither is always the better one: ConvNeXt's stages must be opened, GhostNet's blocks must not.

    Raises:
        ValueError: neither way works, with the reason and a way out.
    """
    inner = [m for m in backbone.modules() if m is not backbone and not _is_plain_container(m)]
    openings: list[Callable[[nn.Module], bool]] = [_is_plain_container]
    if isinstance(backbone, StageList):
        openings = [lambda _: False]
    elif any(map(_holds_repeated_blocks, inner)):
        openings.append(lambda m: _is_plain_container(m) or _holds_repeated_blocks(m))
    traces, problem = [], None
    for opens in openings:
        with eval_mode(backbone):
            try:
                graph_module = fx.GraphModule(backbone, _BlockTracer(opens).trace(backbone))
            except Exception as error:  # whatever the network's own code raises on a proxy
                problem = problem or error
                continue
        _replace_functional_dropout(graph_module)
        traces.append(graph_module)
    if not traces:
        assert problem is not None
        raise ValueError(
            f"{describe(backbone)} can't be traced: {first_line(problem)}. Its outermost forward must take "
            f"the images alone and not branch on values; {WAY_OUT}"
        ) from problem
    return traces


def _is_plain_container(module: nn.Module) -> bool:
    return type(module) is nn.Sequential


def _holds_repeated_blocks(module: nn.Module) -> bool:
    """Such as ConvNeXt's and RegNet's stages: at least two blocks of one class inside."""
    classes = [type(child) for child in _children_through_containers(module) if _is_block(child)]
    return len(classes) > len(set(classes))


def _children_through_containers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _children_through_containers(child)
        else:
            yield child


def _is_block(module: nn.Module) -> bool:
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return len(layers) >= 2


def _replace_functional_dropout(graph_module: fx.GraphModule) -> None:
    """Tracing bakes `training=` into a functional dropout; a module follows train() and eval()."""
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or node.target is not nn.functional.dropout:
            continue
        named = dict(zip(("input", "p", "training", "inplace"), node.args, strict=False)) | node.kwargs
        if named.get("training", True):
            continue  # traced in eval mode: the author wants it always on
        name = f"functional_{node.name}"
        graph_module.add_submodule(name, nn.Dropout(named.get("p", 0.5), named.get("inplace", False)))
        with graph_module.graph.inserting_after(node):
            module = graph_module.graph.call_module(name, (named["input"],))
        node.replace_all_uses_with(module)
        graph_module.graph.erase_node(node)
    graph_module.recompile()
