"""`nextstate machine ...`: machines run, drawn, compiled into weights, and found in them again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from nextstate.checks import InputError, refuse
from nextstate.cli.machine_tasks import tasks
from nextstate.cli.stopping import trains
from nextstate.writing import folder_of

machine = typer.Typer(help="Automata and Turing machines as networks.", no_args_is_help=True)
machine.command("tasks")(trains(tasks))

File = Annotated[str, typer.Argument(help="A machine's file (text or JSON), or a name such as tomita4.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]


@machine.command("show")
def show(
    file: File,
    out: Annotated[Path | None, typer.Option(help="Draw it: .svg, .png or .pdf.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON instead of text.")] = False,
) -> None:
    """Print a machine in the text format, and draw it."""
    from nextstate.machines.draw import draw

    found = _machine(file)
    print(_spelled(found, json_output))
    if out is not None:
        draw(found, out)


@machine.command("run")
def run(
    file: File,
    word: Annotated[str, typer.Argument(help="One character a letter, or letters between spaces.")] = "",
    network: Annotated[bool, typer.Option(help="On the network compiled from it.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Moves without a letter before giving up.")] = 1_000_000,
    json_output: Json = False,
) -> None:
    """Run a machine (or a compiled model) on a word: whether it accepts, what it writes, where it ends."""
    from nextstate.machines import Compiled, Mealy, Moore, TuringMachine, compile
    from nextstate.machines.extraction.observed import Recogniser
    from nextstate.machines.models import load_model

    net: Any = load_model(file) if file.endswith(".safetensors") else None
    if isinstance(net, Recogniser):
        _say({"accepted": net.accepts(_letters(word, net.alphabet))}, json_output)
        return
    found = net.machine if isinstance(net, Compiled) else _machine(file)
    net = compile(found) if network and net is None else net
    letters = _letters(word, found.symbols if isinstance(found, TuringMachine) else found.alphabet)
    answer: dict[str, Any] = {}
    if isinstance(net, Compiled):
        outcome = net.run(letters, limit=limit)
        answer = {
            "accepted": outcome.accepted,
            "outputs": outcome.outputs,
            "ends": str(outcome.configuration),
        }
        answer["steps"] = outcome.steps
    elif isinstance(found, TuringMachine):
        last = found.run(letters, limit=limit)
        answer = {"accepted": last.state in found.accepting, "ends": str(last)}
    else:
        if not isinstance(found, Mealy | Moore):
            answer["accepted"] = found.accepts(letters)
        if hasattr(found, "outputs_of"):
            answer["outputs"] = found.outputs_of(letters)
        answer["ends"] = str(found.trace(letters)[-1])
    if not any(output is not None for output in answer.get("outputs", ())):
        answer.pop("outputs", None)
    if isinstance(found, Mealy | Moore):
        answer.pop("accepted", None)
    _say(answer, json_output)


@machine.command("compile")
def compile_file(
    file: File,
    out: Annotated[Path, typer.Option(help="The safetensors file to write.")],
    cell: Annotated[str, typer.Option(help="elman, gru or lstm.")] = "elman",
    activation: Annotated[str, typer.Option(help="heaviside, saturated, relu or tanh.")] = "",
    memory: Annotated[str, typer.Option(help="Of stacks: grow, digital, limbs or cantor.")] = "",
    dtype: Annotated[str, typer.Option(help="float16, float32 or float64.")] = "float32",
    gain: Annotated[float | None, typer.Option(help="A finite slope of tanh, if it can be proved.")] = None,
    depth: Annotated[int | None, typer.Option(help="Cells, digits or counts at most.")] = None,
    json_output: Json = False,
) -> None:
    """Compile a machine into the weights of an ordinary recurrent cell."""
    import dataclasses

    import torch

    from nextstate.machines import compile
    from nextstate.machines.models import save_model

    if dtype not in ("float16", "float32", "float64"):
        refuse("machine compile", f"dtype is {dtype!r}; there are float16, float32, float64")
    net = compile(
        _machine(file),
        cell=cell,
        activation=activation or None,
        memory=memory or None,
        dtype=getattr(torch, dtype),
        gain=gain,
        depth=depth,
    )
    save_model(net, out)
    print(json.dumps(dataclasses.asdict(net.report)) if json_output else f"{net.report}\nwritten to {out}")


@machine.command("extract")
def extract_model(
    model: Annotated[
        Path, typer.Argument(help="A safetensors file of `machine compile` or `machine circle`.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the machine: text, or JSON by its name.")] = None,
    method: Annotated[str, typer.Option(help="auto, reach, lstar or kv.")] = "auto",
    epsilon: Annotated[float, typer.Option(min=1e-6, max=1, help="Share of words that may differ.")] = 0.001,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    json_output: Json = False,
) -> None:
    """Find the finite machine inside a network, and say how much is known of the likeness."""
    from nextstate.machines.extraction.extract import extract
    from nextstate.machines.formats import save, to_json
    from nextstate.machines.models import load_model

    found = extract(load_model(model), method=method, epsilon=epsilon, seed=seed)
    if out is not None:
        save(found.machine, out)
    if json_output:
        record = json.loads(to_json(found.machine))
        print(json.dumps({"status": found.status, "evidence": found.evidence, "machine": record}))
    else:
        print(f"# {found.status}: {found.evidence}")
        print(_spelled(found.machine, False))


@machine.command("circle")
def circle_language(
    file: File = "tomita4",
    out: Annotated[Path, typer.Option(help="Folder for pictures, model and machines.")] = Path("runs/circle"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    seconds: Annotated[float, typer.Option(min=1, help="Of training at most.")] = 600.0,
    json_output: Json = False,
) -> None:
    """Teach a language to a GRU, find its machine, compile it back and prove the two equal."""
    from nextstate.machines import DFA
    from nextstate.machines.circle import circle
    from nextstate.machines.draw import draw, draw_lessons
    from nextstate.machines.formats import save
    from nextstate.machines.models import save_model

    truth = _machine(file)
    if not isinstance(truth, DFA):
        refuse("machine circle", f"{file} is a {type(truth).__name__}; the circle is for acceptors (dfa)")
    done = circle(truth, seed=seed, seconds=seconds)
    folder_of("machine circle", out)
    draw(done.truth, out / "1-truth.svg", title="1. the language")
    draw_lessons(done.lessons, out / "2-training.svg")
    draw(done.found.machine, out / "3-found.svg", title=f"3. found in the GRU ({done.found.status})")
    draw(done.proof.machine, out / "4-compiled.svg", title=f"4. compiled back ({done.proof.status} equal)")
    save_model(done.trained, out / "trained.safetensors")
    save_model(done.again, out / "compiled.safetensors")
    save(done.found.machine, out / "found.txt")
    last = done.lessons[-1]
    answer = {
        "trained": f"{last.step} steps, {last.seconds:.1f} s, {last.right:.2%} of held-out prefixes right",
        "acceptance test": "passed" if done.taught else "not passed before steps or seconds ran out",
        "found": f"{len(done.found.machine.states)} states, {done.found.status}: {done.found.evidence}",
        "equal to the truth": "yes" if done.difference is None else f"no, they differ on {done.difference}",
        "compiled": str(done.again.report),
        "proof": f"{done.proof.status}: {done.proof.evidence}",
        "closed": done.closed,
        "files": str(out),
    }
    _say(answer, json_output)
    if not done.closed:
        raise typer.Exit(1)


def _machine(name: str) -> Any:
    from nextstate.machines.formats import load
    from nextstate.machines.library import NAMED

    if name in NAMED:
        return NAMED[name]()
    if not Path(name).is_file():
        refuse("machine", f"there is no file {name!r}, and the names are {', '.join(NAMED)}")
    return load(name)


def _spelled(found: Any, as_json: bool) -> str:
    """The machine as text; as JSON where that is asked for, or where its names cannot stand in text."""
    from nextstate.machines.formats import to_json, to_text

    try:
        return to_json(found) if as_json else to_text(found).rstrip("\n")
    except InputError:
        return to_json(found)


def _letters(word: str, alphabet: Any) -> list[Any]:
    spelled = word.split() if " " in word or word in alphabet else list(word)
    known = {str(letter): letter for letter in alphabet}
    strange = [letter for letter in spelled if letter not in known]
    if strange:
        refuse("machine run", f"{strange[0]!r} is not among the letters {', '.join(known)}")
    return [known[letter] for letter in spelled]


def _say(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer))
        return
    for key, value in answer.items():
        shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        print(f"{key}: {shown}")
