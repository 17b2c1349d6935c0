"""From a network to its graph: traced with `torch.fx` for images of one size, blocks kept as leaves.

Sizes are numbers while a network is traced, so that a forward may look at
them; how many images come at once stays open, and what depends on pixels can't be traced.
"""

import inspect
import linecache
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.proxy import Attribute, TraceError

from eenet.backbones.accepting import WAY_OUT, describe, does_not_run, first_line
from eenet.backbones.cost import count_macs, eval_mode, example_tensor, quiet, state_kept

Opening = Callable[[nn.Module], bool]
BATCHES = (1, 2, 1009)
"""Numbers of images. What differs between them is left open, and no choice may depend on it."""
OF_SIZES = {"size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_complex"}
OF_SIZES |= {"shape", "ndim", "dtype"}
"""What can be asked of a tensor without looking at its pixels."""


def trace_graphs(
    backbone: nn.Module, size: tuple[int, int, int], openings: Sequence[Opening]
) -> list[fx.GraphModule]:
    """The graphs of a network, one for each way of opening its blocks that can be traced.

    Args:
        backbone: see `as_module`.
        size: of the images, (C, H, W).
        openings: ways of opening, each says of a module whether its inside is traced.

    Raises:
        ValueError: no way works, with the reason and a way out.
    """
    traces, problem = [], None
    for opens in openings:
        tracer = _BlockTracer(opens, size)
        with eval_mode(backbone), state_kept(backbone):
            try:
                with _counts_left_open(backbone):
                    graph = tracer.trace(backbone)
            except Exception as error:  # whatever the network's own code raises on a proxy
                problem = problem or error
                continue
            tracer.count_images_where_needed()
            graph_module = fx.GraphModule(backbone, graph)
        _replace_functional_dropout(graph_module)
        traces.append(graph_module)
    if not traces:
        assert problem is not None
        if not isinstance(problem, TypeError):  # which says it better, if other arguments are needed
            try:
                count_macs(backbone, (1, *size))
            except Exception as error:
                raise does_not_run(backbone, size, error) from error
        raise ValueError(
            f"{describe(backbone)} can't be traced: {first_line(problem)}. Its outermost forward must take "
            f"the images alone and not branch on their values; {WAY_OUT}"
        ) from problem
    return traces


@contextmanager
def _counts_left_open(backbone: nn.Module) -> Iterator[None]:
    """`len` and `int` must give plain numbers; in the network's own files they need not, see `fx.wrap`."""
    written = [vars(cls).get("forward") for part in backbone.modules() for cls in type(part).__mro__]
    files = {id(f.__globals__): f.__globals__ for f in map(inspect.unwrap, filter(None, written))}
    own = {"len": _len, "int": _Int}
    patched = [
        (names, own.keys() - names) for names in files.values() if not names["__name__"].startswith("torch.")
    ]
    for names, open_ in patched:
        names.update({name: own[name] for name in open_})
    try:
        yield
    finally:
        for names, open_ in patched:
            for name in open_:
                del names[name]


# Tracing -----------------------------------------------------------------------------


class _BlockTracer(fx.Tracer):
    """Keeps blocks as leaves and opens the modules for which `opens` is true."""

    def __init__(self, opens: Opening, size: tuple[int, int, int]) -> None:
        super().__init__()
        self.opens, self.size = opens, size
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.runs: list[fx.Interpreter] = []
        self.running = self.broken = False

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

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Value(node, self)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return self.same([bool(value) for value in self.known(obj)])

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        return iter([cast(Any, obj)[i] for i in range(self.length(obj))])

    def length(self, proxy: fx.Proxy) -> int:
        """Of a list of tensors, or of a tensor's first dimension."""
        values = self.values(proxy.node)
        if values is None or not all(hasattr(value, "__len__") for value in values):
            raise TraceError(f"{_place()} a length is asked for that is only known when images run")
        return self.same([len(value) for value in values])

    def known(self, proxy: fx.Proxy) -> list[Any]:
        """A number or a truth for each of `BATCHES`."""
        values = self.values(proxy.node) if _is_of_sizes(proxy.node) else None
        if values is None:
            raise TraceError(
                f"{_place()} the way depends on the images' pixels or device; such control flow is not traced"
            )
        return values

    def same(self, values: Sequence[Any]) -> Any:
        if any(value != values[0] for value in values):
            raise TraceError(f"{_place()} the way depends on how many images come at once")
        return values[0]

    # Fake images, run only as far as somebody asks -----------------------------------

    def values(self, node: fx.Node) -> list[Any] | None:
        """A node's values for each of `BATCHES`, as fake tensors; none if it can't be run on them."""
        self.running = True
        try:
            with torch.no_grad(), quiet(), self.mode:
                self._catch_up()
        except Exception:  # a block that leaves torch or branches on values: nothing is known behind it
            self.broken = True
        finally:
            self.running = False
        return [run.env[node] for run in self.runs] if all(node in run.env for run in self.runs) else None

    def _catch_up(self) -> None:
        if not self.runs:
            example = example_tensor(self.root)
            for batch in BATCHES:
                run = fx.Interpreter(self.root, garbage_collect_values=False, graph=self.graph)
                run.extra_traceback = False
                run.args_iter = iter([torch.empty((batch, *self.size)).to(example)])
                self.runs.append(run)
        for node in self.graph.nodes:
            for run in self.runs:
                if node not in run.env and not self.broken and node.op != "output":
                    run.env[node] = run.run_node(node)

    def shape(self, proxy: fx.Proxy) -> "_Shape | None":
        """Of a tensor: numbers, and proxies for what depends on how many images there are."""
        values = self.values(proxy.node)
        if values is None or not all(isinstance(v, Tensor) and v.ndim == values[0].ndim for v in values):
            return None
        sides = zip(*(v.shape for v in values), strict=True)
        return _Shape(
            each[0] if len(set(each)) == 1 else self.create_proxy("call_method", "size", (proxy, i), {})
            for i, each in enumerate(sides)
        )

    def count_images_where_needed(self) -> None:
        """From a tensor at hand: a number noted at the start would be alive at all cuts."""
        counts = [node for node in self.graph.nodes if node.op == "call_method" and node.target == "size"]
        last = None
        for node in list(self.graph.nodes) if counts else ():
            if not _is_of_sizes(node) and any(map(_is_of_sizes, node.all_input_nodes)):
                near = next((n for n in node.all_input_nodes if self._is_batch(n)), last)
                with self.graph.inserting_before(node):
                    fresh = {n: self._recounted(n, near) for n in node.all_input_nodes if _is_of_sizes(n)}
                for old, new in fresh.items():
                    node.replace_input_with(old, new)
            last = node if self._is_batch(node) else last
        for node in reversed(list(self.graph.nodes)):
            if not node.users and _is_of_sizes(node):
                self.graph.erase_node(node)

    def _is_batch(self, node: fx.Node) -> bool:
        """Whether it is a tensor with one row per image."""
        values = self.values(node) or [None]
        return all(isinstance(v, Tensor) and v.ndim for v in values) and tuple(map(len, values)) == BATCHES

    def _recounted(self, node: fx.Node, near: fx.Node | None) -> fx.Node:
        if near is None or not _is_of_sizes(node):
            return node
        if not _asks_a_tensor(node):
            return self.graph.node_copy(node, lambda n: self._recounted(n, near))
        counts = self.values(node)
        whole = counts is not None and tuple(counts) == BATCHES
        return self.graph.call_method("size", (near, 0)) if whole else node


def _asks_a_tensor(node: fx.Node) -> bool:
    """For its size or kind, not for its values."""
    name = node.args[1] if node.target is getattr else getattr(node.target, "__name__", node.target)
    return name in OF_SIZES


def _is_of_sizes(node: fx.Node) -> bool:
    """Whether it is computed from nothing but sizes and kinds of tensors."""
    if node.op not in ("call_method", "call_function"):
        return False
    if _asks_a_tensor(node):
        return True
    plain = getattr(node.target, "__module__", "") in ("_operator", "math", "builtins")
    return plain and bool(node.all_input_nodes) and all(map(_is_of_sizes, node.all_input_nodes))


def _place() -> str:
    """Where the network's own code is just now."""
    frame, ours = sys._getframe(), (__file__, str(Path(torch.__file__).parent))
    while frame.f_back and frame.f_code.co_filename.startswith(ours):
        frame = frame.f_back
    path, line = frame.f_code.co_filename, frame.f_lineno
    return f"in {Path(path).name}, line {line}, `{linecache.getline(path, line).strip()}`,"


class _Shape(tuple[Any, ...]):
    """Like `torch.Size`, with the number of images left open."""

    def numel(self) -> Any:
        return math.prod(self)

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _Shape(found) if isinstance(index, slice) else found

    def __add__(self, other: tuple[Any, ...]) -> "_Shape":
        return _Shape(super().__add__(tuple(other)))

    def __fx_create_arg__(self, tracer: fx.Tracer) -> Any:
        return tuple(map(tracer.create_arg, self))


class _Asked:
    """What proxies know besides: sizes."""

    tracer: Any

    def __getattr__(self, name: str) -> Any:
        return _Part(cast(fx.Proxy, self), name)

    @property
    def shape(self) -> Any:
        return self.size()

    def size(self, dim: int | None = None) -> Any:
        shape = self.tracer.shape(self)
        if shape is None:
            return self.tracer.create_proxy(
                "call_method", "size", (self,) if dim is None else (self, dim), {}
            )
        return shape if dim is None else shape[dim]

    @property
    def ndim(self) -> Any:
        return self.dim()

    def dim(self) -> Any:
        shape = self.tracer.shape(self)
        return self.tracer.create_proxy("call_method", "dim", (self,), {}) if shape is None else len(shape)

    def __len__(self) -> int:
        return self.tracer.length(self)

    def __index__(self) -> int:
        return int(self.tracer.same(self.tracer.known(self)))

    def __int__(self) -> int:
        return int(self.tracer.same(self.tracer.known(self)))

    def __float__(self) -> float:
        return float(self.tracer.same(self.tracer.known(self)))


class _Value(_Asked, fx.Proxy): ...


class _Part(_Asked, Attribute): ...


def _len(value: Any) -> Any:
    shape = value.tracer.shape(value) if isinstance(value, _Asked) else None
    return shape[0] if shape else len(value)


class _OpenInt(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not args or not isinstance(args[0], _Asked):
            return int(*args, **kwargs)
        values = args[0].tracer.known(args[0])
        if all(type(value) is int for value in values):
            return args[0]
        return args[0].tracer.create_proxy("call_function", int, args, {})

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, int)


class _Int(int, metaclass=_OpenInt):
    """`int`, but for proxies."""


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
