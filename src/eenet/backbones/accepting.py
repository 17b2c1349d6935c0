"""Which networks are taken: what may be given as a backbone, and what it must answer."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import is_lazy

from eenet.backbones.cost import example_tensor, seeded, state_kept

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
    if (dtype := example_tensor(module).dtype) != torch.float32:
        raise ValueError(
            f"{describe(module)} computes in {dtype}; images come, and exits are trained and measured, in "
            "torch.float32: give it as network.float()"
        )
    if getattr(module, "num_classes", None) == 0:
        raise ValueError(
            f"{describe(module)} has num_classes=0, so it is a feature extractor; give it a classifier, "
            "num_classes=2 or more"
        )
    others = sorted(kinds & {"Conv1d", "Conv3d"})
    if others and not any(isinstance(part, nn.Conv2d) for part in module.modules()):
        raise ValueError(
            f"{describe(module)} has {others[0]} layers and no Conv2d; expected a network on images "
            "[B, C, H, W]"
        )


# What it answers ---------------------------------------------------------------------

ENDS = {"SoftmaxBackward": "a softmax", "SigmoidBackward": "a sigmoid", "HardsigmoidBackward": "a sigmoid"}
"""Operations, as autograd calls them, whose results are no logits."""
RESHAPING = re.compile(
    r"(Unsafe)?(View|Reshape|ReshapeAlias|Squeeze|Unsqueeze|Clone|Alias|Slice|Select|Transpose|Permute|T|ToCopy)"
    r"Backward\d"
)
ACTING = re.compile(r"relu|elu|silu|swish|mish|act|tanh", re.IGNORECASE)


class NoLogitsError(ValueError):
    """The network answers something else."""


def no_logits(backbone: nn.Module, value: object, mode: str, batch: int) -> NoLogitsError:
    kind = type(value).__name__.removeprefix("immutable_")  # as fx calls its lists and dictionaries
    shown = tuple(value.shape) if isinstance(value, Tensor) else f"a {kind}"
    return NoLogitsError(
        f"{describe(backbone)} must return logits of shape [batch, classes], for {batch} image"
        f"{'s' * (batch > 1)} in {mode} mode not {shown}; give it a classifier, return one tensor, and "
        "switch auxiliary outputs off (in torchvision: aux_logits=False)"
    )


def does_not_run(backbone: nn.Module, size: tuple[int, int, int], error: Exception) -> ValueError:
    return ValueError(
        f"{describe(backbone)} does not run on an input of size {size} (C, H, W): {first_line(error)}"
    )


def check_classes(
    backbone: nn.Module, graph_module: fx.GraphModule, seen: dict[fx.Node, tuple[int, Any]], outputs: int
) -> None:
    """Whether a network's outputs can be classes, as far as its graph tells.

    Args:
        backbone: the network.
        graph_module: its graph.
        seen: for every node of it, MACs and output, see `trace_costs`.
        outputs: how many the network has.

    Raises:
        ValueError: a single one, or features that no classifier follows.
    """
    if outputs == 0:
        raise ValueError(f"{describe(backbone)} has no outputs; give it a classifier of two classes or more")
    if outputs == 1:
        raise ValueError(
            f"{describe(backbone)} has one output; a class is chosen among at least two: give its last layer "
            "2 outputs, and 0 and 1 as labels (a softmax over two is the sigmoid of their difference)"
        )
    if _ends_in_features(graph_module, seen, outputs):
        raise ValueError(
            f"{describe(backbone)} has no classifier: no weights follow its last feature map, so its "
            f"{outputs} outputs are features, not classes; give it a last layer, "
            f"nn.Linear({outputs}, classes) (in timm: num_classes above 0)"
        )


def _ends_in_features(
    graph_module: fx.GraphModule, seen: dict[fx.Node, tuple[int, Any]], outputs: int
) -> bool:
    """No weights behind the last feature map, and what makes it is no classifier by convolution."""

    def layers(node: fx.Node) -> list[nn.Module]:
        block = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else nn.Identity()
        return [part for part in block.modules() if next(part.parameters(recurse=False), None) is not None]

    nodes = list(seen)
    maps = [i for i, node in enumerate(nodes) if isinstance(v := seen[node][1], Tensor) and v.ndim == 4]
    weighted = [i for i, node in enumerate(nodes) if seen[node][0] or layers(node) or node.op == "get_attr"]
    if not maps or not weighted or weighted[-1] > maps[-1]:
        return False
    if seen[nodes[maps[-1]]][1].shape[1] != outputs:  # a map is flattened: an output per channel and place
        return True
    last = layers(nodes[weighted[-1]])
    if not last:  # a function, or parameters that belong to the outermost module
        return False
    if "norm" in type(last[-1]).__name__.lower():
        return True
    kernel = getattr(last[-1], "kernel_size", 1)
    between = nodes[weighted[-1] + 1 : maps[-1] + 1]
    return kernel not in (1, (1, 1)) and any(ACTING.search(kind_of(graph_module, node)) for node in between)


def kind_of(graph_module: fx.GraphModule, node: fx.Node) -> str:
    """The class of the module that a node calls, or the name of its function."""
    if node.op == "call_module":
        return type(graph_module.get_submodule(str(node.target))).__name__
    return getattr(node.target, "__name__", str(node.target))


def check_logits(
    backbone: nn.Module, graph_module: fx.GraphModule, size: tuple[int, int, int], logits: Tensor
) -> None:
    """Whether a network in eval mode answers with logits, not with probabilities.

    Logarithms of probabilities are logits. Rows of any scale of random images that sum to 1 are probabilities
    however they were made; a sigmoid is known by the last step of the gradient.

    Args:
        backbone: the network.
        graph_module: its graph, to name the layer.
        size: of its images.
        logits: what it answered to some images; if they can't be probabilities, nothing more is run.

    Raises:
        NoLogitsError: probabilities, with what to take off.
    """
    if not bool(((logits >= 0) & (logits <= 1)).all()):
        return
    sums, end = [], ""
    with state_kept(backbone), seeded(backbone), torch.enable_grad():
        for scale in (0.1, 1, 10):
            images = (scale * torch.randn(2, *size)).to(logits).requires_grad_()
            answers = backbone(images.clone())
            sums += (answers.sum(1) if bool((answers >= 0).all()) else torch.zeros(2)).tolist()
            end = _last_operation(answers)
    if end or all(abs(total - 1) < 1e-4 for total in sums):
        found = end or "a softmax, or something like it"
        raise NoLogitsError(
            f"{describe(backbone)} ends in {found}: its answers are probabilities, and exits need what goes "
            f"into it, logits; {_way_to_logits(graph_module, found)}"
        )


def _last_operation(answers: Tensor) -> str:
    step = answers.grad_fn
    while step is not None and RESHAPING.fullmatch(step.name()):
        step = step.next_functions[0][0]
    return ENDS.get(step.name().rstrip("0123456789"), "") if step is not None else ""


def _way_to_logits(graph_module: fx.GraphModule, found: str) -> str:
    node = next(n for n in graph_module.graph.nodes if n.op == "output").all_input_nodes[0]
    while re.search("flatten|view|squeeze|identity|dropout", kind_of(graph_module, node), re.IGNORECASE):
        node = node.all_input_nodes[0]
    if node.op == "call_module" and re.fullmatch(r"Softmax|(Hard)?[Ss]igmoid", kind_of(graph_module, node)):
        parts = [f"[{part}]" if part.isdigit() else f".{part}" for part in str(node.target).split(".")]
        return f"take it off: network{''.join(parts)} = nn.Identity()"
    return f"take the {found.split()[1].strip(',')} off the end of its forward"
