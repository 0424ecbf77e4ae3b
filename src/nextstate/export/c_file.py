"""A module that runs step by step as one C99 file and its header."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from nextstate.checks import refuse
from nextstate.combine.quantised import row_units
from nextstate.defaults import usual_defaults
from nextstate.export.c_code import FUNCTIONS, Step, number
from nextstate.export.graph import StepGraph, frozen, step_graph
from nextstate.export.names import paths
from nextstate.export.stream import as_cell, example_of, input_of
from nextstate.states import Tree, leaves, tree_map
from nextstate.writing import together, whole

OPERATION = "export.c"
WEIGHTS = ("float32", "int8")
KEYWORDS = frozenset(
    """auto break case char const continue default do double else enum extern float for goto if inline int
    long register restrict return short signed sizeof static struct switch typedef union unsigned void
    volatile while""".split()  # noqa: SIM905
)


@dataclass(frozen=True, slots=True)
class CFile:
    """What `c` wrote: the two files, the prototype of the step, and bytes of memory.

    `constants` are the weights (read-only), `state` one stream's, `scratch` what a step needs besides.
    """

    source: Path
    header: Path
    prototype: str
    constants: int
    state: int
    scratch: int


@usual_defaults()
def c(module: nn.Module, path: str | Path, us: Tree | None = None, *, weights: str = "float32") -> CFile:
    """Write a module that runs step by step as C99: NAME.c with its weights, and NAME.h beside it.

    c : (module, path to NAME.c) -> CFile

        void NAME_reset(NAME_state *s);                            the cell's own start
        int  NAME_step(NAME_state *s, const float u[I], float v[V]);    one step; 0 if all is well

    An id is an `int32_t`, a flag an `int`; `NAME_step` gives -1 and does nothing if an id is not in its
    table. Trees have one parameter a tensor (v_0, v_1_h), states one field (h and c of an LSTM).

    Any cell that can be traced, `LanguageModel` (logits of the next token), `SequenceClassifier` with cells
    as layers and the pooling `Last` (logits of what was read so far), and layers of `torch.nn` and
    `nextstate.nn` that read forward. All memory is static: the state is the caller's, as many as there are
    streams; scratch memory is one array of the file, so two threads must not step at once. Nothing is needed
    but the C99 mathematics library. Numbers are float32; eval mode.

    `us` is an example of the input [T, B, ...] of a cell, needed only where it cannot be guessed. With
    `weights` "int8" matrices and tables of embeddings are bytes with a float32 unit for each row, a quarter
    of the memory: the numbers of `nextstate.Quantised`. Sums, states and biases stay float32.

    Raises InputError for other `weights`, for a module without a step or an operation without a form in C,
    for numbers that are not float32, and for a path that does not end in .c or is no name in C.

    >>> import tempfile
    >>> from nextstate import GRU, export
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = export.c(GRU(3, 5), Path(folder) / "gru.c")
    >>> found.prototype
    'int gru_step(gru_state *s, const float u[3], float v[5])'
    >>> found.constants, found.state  # 3 x 5 x (3 + 5 + 2) weights, 5 numbers of state
    (600, 20)
    """
    path = Path(path)
    if not isinstance(module, nn.Module):
        refuse(OPERATION, f"the module is a {type(module).__name__}; expected a torch.nn.Module")
    if weights not in WEIGHTS:
        refuse(OPERATION, f"weights is {weights!r}; expected one of {', '.join(WEIGHTS)}")
    if path.suffix != ".c" or not _is_name(path.stem):
        refuse(OPERATION, f"the file is {path.name!r}; expected a name in C and .c, such as model.c")
    if not path.parent.is_dir():
        refuse(OPERATION, f"there is no folder {path.parent}")
    with torch.no_grad():
        module = frozen(OPERATION, module)
        cell = as_cell(OPERATION, module)
        example = us if us is not None else input_of(module)
        example = example_of(OPERATION, cell, example)
        u, s = tree_map(lambda x: x[0], example), cell.initial_state(1)
        graph = step_graph(OPERATION, cell, u, s)
        writer = _Writer(path.stem, type(module).__name__, graph, u, s, weights == "int8")
    header = path.with_suffix(".h")
    with together(path, header), whole(OPERATION, path) as source, whole(OPERATION, header) as beside:
        source.write_text(writer.source())
        beside.write_text(writer.header())
    return CFile(
        path, header, writer.prototype(), writer.constants, 4 * max(1, sum(graph.state_widths)),
        4 * writer.floats,
    )  # fmt: skip


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z]\w*", text, re.ASCII) is not None and text not in KEYWORDS


class _Writer:
    def __init__(self, name: str, kind: str, graph: StepGraph, u: Tree, s: Tree, small: bool) -> None:
        self.name, self.kind, self.graph, self.small = name, kind, graph, small
        self.constants = 0
        """Bytes of the arrays of numbers, once they are written."""
        self.inputs = list(zip(paths("u", u), leaves(u), strict=True))
        self.outputs = list(zip(paths("v", graph.v_like), leaves(graph.v_like), strict=True))
        fields = [x.removeprefix("s_") for x in paths("s", s)]
        self.fields = fields if all(map(_is_name, fields)) else [f"s{k}" for k in range(len(fields))]
        rows = [x[0].reshape(-1) for x in leaves(s)]
        self.rows = rows
        said: list[str | None] = []
        for path, x in self.inputs:
            scalar = x.dim() == 1 and not x.is_floating_point()
            if not scalar and not x.is_floating_point() and x.dtype != torch.bool:
                refuse(OPERATION, f"the input {path} holds several whole numbers a step; expected one")
            said.append(f"(float){path}" if x.dtype != torch.bool else f"(float)({path} != 0)")
            if not scalar:
                said[-1] = None
        self.step = Step(
            graph, name, tuple(said), tuple(path for path, _ in self.inputs),
            tuple(f"s->{f}" for f in self.fields), small,
        )  # fmt: skip
        self.step.write(tuple(path for path, _ in self.outputs))
        self.floats = self.step.scratch()

    def prototype(self) -> str:
        parameters = [f"{self.name}_state *s"]
        for path, x in self.inputs:
            if x.dim() == 1 and not x.is_floating_point():
                parameters.append(f"{'int' if x.dtype == torch.bool else 'int32_t'} {path}")
            else:
                parameters.append(f"const float {path}[{x[0].numel()}]")
        parameters += [f"float {path}[{x[0].numel()}]" for path, x in self.outputs]
        return f"int {self.name}_step({', '.join(parameters)})"

    def header(self) -> str:
        guard = f"{self.name.upper()}_H"
        fields = [
            f"    float {field}[{width}];"
            for field, width in zip(self.fields, self.graph.state_widths, strict=True)
        ] or ["    float none[1];"]
        return "\n".join(
            [
                f"/* {self.kind}, one step at a time. Written by NextState. */",
                f"#ifndef {guard}",
                f"#define {guard}",
                "",
                "#include <stdint.h>",
                "",
                "#ifdef __cplusplus",
                'extern "C" {',
                "#endif",
                "",
                "/* One stream. */",
                "typedef struct {",
                *fields,
                f"}} {self.name}_state;",
                "",
                "/* The state before the first step. */",
                f"void {self.name}_reset({self.name}_state *s);",
                "",
                "/* One step. 0, or -1 if an id is not in its table: then nothing was done. The arrays must",
                "   not overlap, and two threads must not step at once. */",
                self.prototype() + ";",
                "",
                "#ifdef __cplusplus",
                "}",
                "#endif",
                "",
                "#endif",
                "",
            ]
        )

    def source(self) -> str:
        lines = [
            f"/* {self.kind}, one step at a time. Written by NextState: C99 and its mathematics library. */",
            f'#include "{self.name}.h"',
            "",
            "#include <math.h>",
            "",
            *self._numbers(),
        ]
        for op in sorted(self.step.used):
            lines += [f"static float {self.name}_{op}(float x) {{ return {FUNCTIONS[op]}; }}", ""]
        if self.floats:
            lines += [f"static float {self.name}_scratch[{self.floats}];", ""]
        return "\n".join([*lines, *self._reset(), "", *self._step(), ""])

    def _numbers(self) -> list[str]:
        lines: list[str] = []
        groups = {
            "w": self.graph.weights,
            "b": self.graph.vecs,
            "e": tuple(table for table, _ in self.graph.tables),
        }
        for letter, tensors in groups.items():
            for k, x in enumerate(tensors):
                lines += (
                    self._bytes(f"{letter}{k}", x)
                    if self.small and letter != "b"
                    else (self._array(f"{letter}{k}", x))
                )
        for k, row in enumerate(self.rows):
            if bool(row.any()):
                lines += self._array(f"start{k}", row)
        return lines

    def _array(self, name: str, x: Tensor, kind: str = "float") -> list[str]:
        values = x.reshape(-1).tolist()
        self.constants += x.numel() * (1 if kind == "int8_t" else 4)
        said = [number(v).strip("()") if kind == "float" else str(v) for v in values]
        rows = ["    " + ", ".join(said[i : i + 8]) + "," for i in range(0, len(said), 8)]
        shape = " x ".join(map(str, x.shape))
        head = f"static const {kind} {self.name}_{name}[{x.numel()}] = {{ /* {shape} */"
        return [head, *rows, "};", ""]

    def _bytes(self, name: str, x: Tensor) -> list[str]:
        """A matrix as bytes, and the unit of each of its rows."""
        unit = row_units(x)
        whole = (x / unit).round().to(torch.int8)
        return self._array(name, whole, "int8_t") + self._array(f"{name}_unit", unit[:, 0])

    def _reset(self) -> list[str]:
        lines = [f"void {self.name}_reset({self.name}_state *s) {{"]
        if any(self.graph.state_widths):
            lines.append("    int i;")
        for k, (field, row) in enumerate(zip(self.fields, self.rows, strict=True)):
            value = f"{self.name}_start{k}[i]" if bool(row.any()) else "0.0f"
            lines.append(f"    for (i = 0; i < {row.numel()}; i++) s->{field}[i] = {value};")
        if not self.fields:
            lines.append("    s->none[0] = 0.0f;")
        return [*lines, "}"]

    def _step(self) -> list[str]:
        body = self.step.lines
        text = "\n".join(body)
        lines = [self.prototype() + " {"]
        lines += [
            f"    float *const t{index} = {self.name}_scratch + {piece.offset};"
            for index, piece in sorted(self.step.memory.items())
        ]
        lines.append("    int i, k;" if "(k = 0" in text else "    int i;")
        for table, which in self.graph.tables:
            name = self.inputs[which][0]
            lines.append(f"    if ({name} < 0 || {name} >= {len(table)}) return -1;")
        if not self.fields:
            lines.append("    (void)s;")
        lines += [f"    (void){name};" for name, _ in self.inputs if not re.search(rf"\b{name}\b", text)]
        return [*lines, *body, "    return 0;", "}"]
