"""The compiler on one page: a step of a cell becomes programs for an engine.

trace        Python step            -> ATen graph, by fake tensors
rewrite      ATen graph             -> the same in fewer forms
classify     ATen graph             -> what each value depends on: before, inside, after the loop
check        ATen graph             -> refused if rows of the batch influence each other
translate    inside part            -> intermediate form; refused with all reasons at once
cut          wide values            -> pieces of one width each
blend        (1 - c) a + c b        -> one operation
hoist        loop                   -> loop, and what torch or one large product does before it
differentiate, resolve   loop       -> one step back in time, and what to save for it
lower        both                   -> programs
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx, nn

from nextstate.compiler.classify import Classes, Depends, check_rowwise, classify, shape
from nextstate.compiler.differentiate import Loop, Resolved, Wanted, differentiate, resolve
from nextstate.compiler.evaluate import order
from nextstate.compiler.hoist import Outer, hoist
from nextstate.compiler.lower import Externals, Lowering, Shapes
from nextstate.compiler.normalise import Pieces, blends, cut
from nextstate.compiler.program import Program
from nextstate.compiler.trace import Trace, Unsupported, trace_step
from nextstate.compiler.translate import Leaves, Translator, crossings, translate
from nextstate.states import Tree


@dataclass(frozen=True, slots=True)
class Split:
    """Which nodes of the trace torch evaluates: once a call, once a sequence, before and after all steps."""

    parameters: tuple[fx.Node, ...]
    constants: tuple[fx.Node, ...]
    before: tuple[fx.Node, ...]
    after: tuple[fx.Node, ...]
    crossing: tuple[fx.Node, ...]


@dataclass(frozen=True, slots=True)
class CompiledStep:
    """A compiled step: the loop and its surroundings, from which the programs are made."""

    trace: Trace
    classes: Classes
    leaves: Leaves
    split: Split
    loop: Loop
    outer: Outer
    externals: Externals
    shapes: Shapes
    lowering: Lowering

    def resolved(self, wanted: Wanted) -> Resolved:
        return resolve(self.loop, differentiate(self.loop, wanted))

    def forward(self, saved: tuple[int, ...] = ()) -> Program:
        return self.lowering.forward(saved)

    def backward(self, resolved: Resolved, wanted: Wanted) -> Program:
        return self.lowering.backward(resolved, wanted)


def compile_step(
    cell: nn.Module, u: Tree, s: Tree, *, gather: bool, keep_outputs: bool, trace: Trace | None = None
) -> CompiledStep:
    """compile_step : (cell, u, s) -> CompiledStep, for examples of one step's input and state.

    `gather`: look the input products of token ids up in a table instead of computing them. `keep_outputs`:
    False compiles the loop for its last state alone. `trace`: that of the same step, where it is known.

    Raises Unsupported with every reason at once.
    """
    if trace is None:
        trace = trace_step(cell, u, s)
    classes = classify(trace)
    translator, states, outputs = _translated(trace, classes, gather)
    crossing = crossings(trace, classes)
    if not keep_outputs:
        outputs, crossing = [], []
    build, state_pieces, output_pieces = cut(translator.build, states, outputs)
    leaves, outer, loop = _hoisted(translator, build, state_pieces, output_pieces)
    shapes = _shapes(trace, classes, translator, crossing)
    widths = (
        [translator.width(node) for node in leaves.vecs],
        [translator.width(node) for node in leaves.rows],
    )
    externals = Externals.of(outer, *widths, shapes)
    lowering = Lowering(loop, outer, externals, shapes)
    split = _split(trace, classes, leaves, crossing, keep_outputs)
    return CompiledStep(trace, classes, leaves, split, loop, outer, externals, shapes, lowering)


def _translated(trace: Trace, classes: Classes, gather: bool) -> tuple[Translator, list[int], list[int]]:
    """Check and translate; the reasons of both against a step are raised together."""
    reasons: list[str] = []
    try:
        check_rowwise(trace, classes)
    except Unsupported as mixed:
        reasons = mixed.reasons
    try:
        found = translate(trace, classes, gather)
    except Unsupported as unknown:
        raise Unsupported([*reasons, *unknown.reasons]) from None
    except Exception:  # translation relies on the check; without its reasons this is a fault of ours
        if not reasons:
            raise
    if reasons:
        raise Unsupported(reasons)
    return found


def _hoisted(
    translator: Translator, build: object, states: list[Pieces], outputs: list[Pieces]
) -> tuple[Leaves, Outer, Loop]:
    leaves = translator.leaves
    ids: list[fx.Node] = []
    table_ids = [Leaves.place(ids, ids_node) for _, ids_node in leaves.tables]
    roots = [node for pieces in (*states, *outputs) for _, node in pieces]
    build, roots = blends(build, roots)  # type: ignore[arg-type]
    build, roots, outer = hoist(build, roots, table_ids)
    new = iter(roots)
    pieces = [tuple((column, next(new)) for column, _ in root) for root in (*states, *outputs)]
    loop = Loop(build, tuple(pieces[: len(states)]), tuple(pieces[len(states) :]))
    return leaves, outer, loop


def _shapes(trace: Trace, classes: Classes, translator: Translator, crossing: list[fx.Node]) -> Shapes:
    leaves = translator.leaves
    return Shapes(
        states=tuple(trace.states[k].meta["val"].shape[1] for k in classes.moving),
        seqs=tuple(translator.width(node) for node in leaves.seqs),
        outputs=tuple(translator.width(node) for node in crossing),
        weights=tuple(tuple(node.meta["val"].shape) for node in leaves.weights),
    )


def _split(
    trace: Trace, classes: Classes, leaves: Leaves, crossing: list[fx.Node], keep_outputs: bool
) -> Split:
    roots = [*leaves.vecs, *leaves.weights, *leaves.rows, *leaves.seqs]
    roots += [node for pair in leaves.tables for node in pair]
    entry = [*trace.weights, *trace.inputs, *trace.states]
    inner = [*crossing, *(trace.states[k] for k in classes.moving)]
    outputs = [v for v in trace.outputs if isinstance(v, fx.Node)] if keep_outputs else []
    after_needs = order(outputs, [*entry, *inner])
    needed = [*order(roots, entry), *after_needs]
    groups: dict[Depends, dict[fx.Node, None]] = {kind: {} for kind in Depends}
    groups[Depends.NOTHING] = {}
    for node in needed:
        depends = classes.depends[node]
        kind = next(
            (k for k in (Depends.STATE, Depends.INPUT, Depends.CONSTANT) if depends & k), Depends.NOTHING
        )
        if kind == Depends.NOTHING and trace.batch in shape(node):
            # The same for every row, but made for each: with as many rows as what reads it.
            kind = Depends.INPUT
            if any(classes.depends.get(user) == Depends.CONSTANT for user in node.users):
                raise Unsupported(["a value made for each row meets a constant of the sequence"])
        groups[kind][node] = None
    position = {node: place for place, node in enumerate(trace.module.graph.nodes)}
    ordered = {kind: tuple(sorted(found, key=position.__getitem__)) for kind, found in groups.items()}
    if any(node in classes.inside for node in ordered[Depends.STATE]):
        inside = [n for n in ordered[Depends.STATE] if n in classes.inside]
        tuples = [n for n in inside if not hasattr(n.meta.get("val"), "shape")]
        if len(tuples) < len(inside):
            raise Unsupported(["a value inside the loop is needed after it"])
    return Split(
        ordered[Depends.NOTHING],
        ordered[Depends.CONSTANT],
        ordered[Depends.INPUT],
        ordered[Depends.STATE],
        tuple(crossing),
    )
