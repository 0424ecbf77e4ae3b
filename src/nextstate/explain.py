"""What will run for a cell, and why nothing faster does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from nextstate.cell import Cell
from nextstate.checks import describe, refuse
from nextstate.compiler.classify import op_name, shape
from nextstate.compiler.compiling import CompiledStep, compile_step
from nextstate.compiler.differentiate import Resolved, Wanted
from nextstate.compiler.ir import Builder, Node
from nextstate.compiler.normalise import count_uses
from nextstate.compiler.program import Program
from nextstate.compiler.trace import Unsupported
from nextstate.run import ENGINES, check_cell, request_for
from nextstate.states import Tree, leaves, tree_map


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `explain` found: `print` it.

    `engine` is the name of the engine that will run; `reasons` say, one a line, why each faster one does
    not; `graph` shows the compiled step line by line, and is empty where there is none.

    >>> import nextstate as ns
    >>> ns.explain(ns.Elman(3, 5), engine="reference").engine
    'reference'
    """

    cell: str
    input: str
    engine: str
    reasons: tuple[str, ...]
    graph: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.cell} on {self.input}: runs on the {self.engine} engine"]
        lines += [f"  not {reason}" for reason in self.reasons]
        return "\n".join([*lines, *self.graph])


def explain(
    cell: Cell, us: Tree | None = None, s0: Tree | None = None, *, engine: str = "auto"
) -> Explanation:
    """Which engine will run a cell, how its step is divided, and why nothing faster runs.

    explain : (cell, [u]) -> Explanation

    Shapes: us [T, B, ...], an example of the input. Without one the input is guessed from the sizes of the
    cell's weights, and the explanation says what was assumed. Nothing is computed but that guess.
    The graph has four parts: what torch does before the loop, what the engine does before it for all steps
    in one product, what stands inside the loop, what torch does after it. Then what a training run saves
    and what it computes again, and the blocks of the programs.

    Raises InputError if no input can be guessed, or if the example cannot be right.

    >>> import nextstate as ns
    >>> found = ns.explain(ns.GRU(3, 5), engine="reference")
    >>> print(found)  # doctest: +ELLIPSIS
    GRU on (1, 2, 3) float32 (assumed): runs on the reference engine
    Before the loop, the engine for all steps in one product
    ...
    """
    assumed = us is None
    if us is None:
        us = guess("explain", cell)
    request = request_for("explain", cell, us, s0)
    chosen, reasons = engine, []
    if engine == "auto":
        for candidate in ENGINES.values():
            refusal = candidate.refusal(request)
            if refusal is None:
                chosen = candidate.name
                break
            reasons.append(f"{candidate.name}: {refusal.reason}")
    try:
        graph = (*_graph(_compiled(cell, us, request.s0)), *_look_ups(cell, us, request.s0))
    except Unsupported as unsupported:
        graph = ("The step cannot be compiled:", *(f"  {reason}" for reason in unsupported.reasons))
    shown = describe(us) + (" (assumed)" if assumed else "")
    return Explanation(type(cell).__name__, shown, chosen, tuple(reasons), graph)


def _compiled(cell: Cell, us: Tree, s0: Tree, *, gather: bool = False) -> CompiledStep:
    one = tree_map(lambda u: u.new_zeros((1, *u.shape[2:])), us)
    return compile_step(cell, one, s0, gather=gather, keep_outputs=True)


def _look_ups(cell: Cell, us: Tree, s0: Tree) -> Iterator[str]:
    if not all(u.is_floating_point() for u in leaves(us)):
        for table, _ in _compiled(cell, us, s0, gather=True).leaves.tables:
            rows = shape(table)[0]
            yield f"From {2 * rows} ids on, products with the embedding are looked up in its {rows} rows"


def guess(operation: str, cell: Cell) -> Tree:
    """An input [1, 2, ...] that the step accepts."""
    check_cell(operation, cell)
    for example in _candidates(cell):
        device = leaves(example)[0].device
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                start = cell.initial_state(2, device=device)
                cell(tree_map(lambda u: u[0], example), start)
        except Exception:  # whatever a step says to an input of the wrong kind: it is not this one
            continue
        return example
    return refuse(
        operation,
        f"what input {type(cell).__name__} takes could not be guessed; give one, as in explain(cell, us)",
    )


def _candidates(cell: Cell) -> Iterator[Tree]:
    modules = list(cell.modules())
    own: list[Any] = [getattr(m, "input_size", None) for m in modules]
    sizes: list[int] = [size for size in own if isinstance(size, int)]
    sizes += [m.in_features for m in modules if isinstance(m, nn.Linear)]
    sizes += [p.shape[k] for p in cell.parameters() if p.dim() == 2 for k in (1, 0)]
    sizes += [p.shape[0] for p in cell.parameters() if p.dim() == 1] + [1]
    # 2 is the batch: a size of 1 is tried last, for it would be broadcast.
    with next((p.device for p in cell.parameters()), torch.device("cpu")):
        examples = [torch.zeros(1, 2, n) for n in sorted(dict.fromkeys(sizes), key=lambda n: n == 1)]
        examples.append(torch.zeros(1, 2, dtype=torch.int64))
        resets = torch.zeros(1, 2, dtype=torch.bool)
    yield from examples
    yield from ((example, resets) for example in examples)


def _graph(step: CompiledStep) -> Iterator[str]:
    names = _Names(step)
    split = step.split
    yield from _torch_part("Once a call, torch", split.parameters, names)
    yield from _torch_part("Once a sequence, torch", split.constants, names)
    yield from _torch_part("Before the loop, torch for all steps at once", split.before, names)
    if step.outer.pres:
        yield "Before the loop, the engine for all steps in one product"
        for place, terms in enumerate(step.outer.pres):
            said = " + ".join(names.inline(step.outer.build, term) for term in terms)
            yield f"  pre{place} [{step.lowering.pre_width(place)}] = {said}"
    yield from _inside(step, names)
    yield from _torch_part("After the loop, torch for all steps at once", split.after, names)
    if step.classes.constant:
        held = ", ".join(_numbered("s", k, step.trace.states) for k in step.classes.constant)
        yield f"Constants of the sequence: {held}"
    wanted = Wanted(
        frozenset((kind, k) for kind, count in _counts(step) for k in range(count)),
        frozenset(range(len(step.shapes.weights))),
    )
    if step.loop.states:
        resolved = step.resolved(wanted)
        yield from _training(step, resolved, names)
        yield from _blocks("Program of the forward run", step.forward(resolved.saved))
        yield from _blocks("Program of the backward run", step.backward(resolved, wanted))


def _counts(step: CompiledStep) -> list[tuple[str, int]]:
    outer = step.outer
    return [
        ("seq", len(step.shapes.seqs)), ("vec", len(step.externals.vec_at)),
        ("row", len(step.externals.row_at)), ("flag", len(outer.flags)), ("pre", len(outer.pres)),
    ]  # fmt: skip


def _torch_part(title: str, nodes: tuple[fx.Node, ...], names: _Names) -> Iterator[str]:
    if nodes:
        yield title
        for node in nodes:
            arguments = ", ".join(names.argument(a) for a in node.args)
            yield f"  {node.name} {names.shape(node)} = {op_name(node)}({arguments})"


def _inside(step: CompiledStep, names: _Names) -> Iterator[str]:
    build, roots = step.loop.build, step.loop.roots
    uses = count_uses(build, roots)
    yield "Inside the loop"
    for index, node in enumerate(build.nodes):
        if uses[index] and node.args:
            yield f"  %{index} [{node.width}] = {names.said(build, index)}"
    states = [_numbered("s", k, step.trace.states) + "'" for k in step.classes.moving]
    outputs = [_numbered("out", k, step.loop.outputs) for k in range(len(step.loop.outputs))]
    for label, pieces in zip((*states, *outputs), (*step.loop.states, *step.loop.outputs), strict=True):
        yield f"  {label} = " + ", ".join(names.said(build, node, inside=True) for _, node in pieces)


def _training(step: CompiledStep, resolved: Resolved, names: _Names) -> Iterator[str]:
    build = step.loop.build
    widths = sum(build.width(node) for node in resolved.saved)
    said = ", ".join(f"%{node}" if build[node].args else names.said(build, node) for node in resolved.saved)
    state = sum(step.shapes.states)
    yield f"Saved for the backward run: the states ({state} floats a row and step)" + (
        f" and {said} ({widths} floats)" if said else ""
    )
    adjoint = resolved.adjoint.build
    live = count_uses(adjoint, _adjoint_roots(resolved))
    again = [node.op for k, node in enumerate(adjoint.nodes) if live[k] and node in _forward_ops(build)]
    if again:
        yield "Computed again in the backward run: " + ", ".join(dict.fromkeys(again))


def _adjoint_roots(resolved: Resolved) -> list[int]:
    found = [g for places in resolved.adjoint.leaves.values() for g in places.values()]
    return found + [index for p in resolved.adjoint.products for index in (p.x, p.g)]


def _forward_ops(build: Builder) -> set[Node]:
    return {
        node for node in build.nodes if node.args and node.op not in ("matmul", "sum", "mul", "sub", "neg")
    }


def _blocks(title: str, program: Program) -> Iterator[str]:
    spec = program.spec()
    yield title
    for phase, when in (("pre", "before"), ("step", "each step"), ("post", "after")):
        for block in spec[phase]:
            factors = sum(len(gemm["dst"]) for gemm in block["gemms"])
            depth = sum(s["k"] for gemm in block["gemms"] for s in gemm["segments"])
            yield (
                f"  {when}: {block['width']} features, {factors} products"
                + (f" over {depth}" if depth else "")
                + f", {len(block['code'])} instructions"
            )
    if spec["tn"]:
        yield f"  at the end: {len(spec['tn'])} sums over all steps (gradients of weights and biases)"


class _Names:
    """How values are called: parameters by their name in the cell, the input u, the state s."""

    def __init__(self, step: CompiledStep) -> None:
        trace = step.trace
        self.step, self.batch = step, trace.batch
        self.named = dict(zip(trace.weights, trace.parameters, strict=True))
        self.named |= {node: _numbered("u", k, trace.inputs) for k, node in enumerate(trace.inputs)}
        self.named |= {node: _numbered("s", k, trace.states) for k, node in enumerate(trace.states)}

    def node(self, node: fx.Node) -> str:
        return self.named.get(node, node.name)

    def argument(self, value: Any) -> str:
        if isinstance(value, fx.Node):
            return self.node(value)
        if isinstance(value, list | tuple):
            return "[" + ", ".join(self.argument(v) for v in value) + "]"
        return "B" if value == self.batch else str(value)

    def shape(self, node: fx.Node) -> str:
        dims = ("B" if n == self.batch else str(n) for n in shape(node))
        return f"[{', '.join(dims)}]" if isinstance(node.meta.get("val"), Tensor) else ""

    def inline(self, build: Builder, index: int) -> str:
        return self.said(build, index, inside=not build[index].args)

    def said(self, build: Builder, index: int, inside: bool = False) -> str:
        """A node as a call; `inside` another one as its number."""
        node = build[index]
        if not node.args:
            return self._leaf(node)
        if inside:
            return f"%{index}"
        arguments = [self.said(build, a, inside=True) for a in node.args]
        if node.op == "matmul":
            weight, row, column, transposed, k = (int(a) for a in node.attr)
            height, width = (k, node.width) if transposed else (node.width, k)
            matrix = self.node(self.step.leaves.weights[weight])
            where = f"[{row}:{row + height}, {column}:{column + width}]"
            return f"{arguments[0]} @ {matrix}{where}{'' if transposed else '.T'}"
        if node.op == "sum":
            return " + ".join(arguments)
        return f"{node.op}({', '.join(arguments)})"

    def _leaf(self, node: Node) -> str:
        if node.op == "imm":
            return f"{float(node.attr[0]):g}"
        place = int(node.attr[0])
        column = int(node.attr[1]) if len(node.attr) > 1 else 0
        if node.op == "state":
            moving = self.step.classes.moving[place]
            label, size = _numbered("s", moving, self.step.trace.states), self.step.shapes.states[place]
        elif node.op == "seq":
            label, size = self.node(self.step.leaves.seqs[place]), self.step.shapes.seqs[place]
        elif node.op in ("vec", "row"):
            return self._outside(node.op, place)
        else:
            return f"{node.op}{place}"
        whole = column == 0 and node.width == size
        return label if whole else f"{label}[{column}:{column + node.width}]"

    def _outside(self, op: str, place: int) -> str:
        derived = (self.step.outer.vecs if op == "vec" else self.step.outer.rows)[place]
        if derived.whole is None:
            return f"{op}{place}"
        leaf, column = derived.whole
        node = (self.step.leaves.vecs if op == "vec" else self.step.leaves.rows)[leaf]
        dims = shape(node)
        size = math.prod(dims[1:] if dims[:1] == (self.batch,) else dims)
        whole = column == 0 and derived.width == size
        return self.node(node) + ("" if whole else f"[{column}:{column + derived.width}]")


def _numbered(label: str, place: int, among: tuple[Any, ...]) -> str:
    return label if len(among) == 1 else f"{label}{place}"
