"""Automata compiled into recurrent networks, and found inside them."""

from nextstate.machines.algebra import (
    accepted_count,
    complement,
    complete,
    distinguishing_word,
    equivalent,
    minimise,
    product,
    reachable,
    word_text,
)
from nextstate.machines.automata import DFA, Mealy, Moore
from nextstate.machines.compiling.compiled import Compiled, ExactnessLost, Outcome, Report
from nextstate.machines.compiling.compiler import compile
from nextstate.machines.counters import Counted, CounterMachine
from nextstate.machines.draw import draw
from nextstate.machines.extraction.extract import Extraction, extract
from nextstate.machines.extraction.observed import Recogniser
from nextstate.machines.formats import from_json, from_text, load, save, to_json, to_text
from nextstate.machines.models import load_model, save_model
from nextstate.machines.pushdown import ANY, EMPTY, PDA, Stacked
from nextstate.machines.regex import regex
from nextstate.machines.turing import Taped, TuringMachine
from nextstate.machines.words import STUCK, Table

__all__ = [
    "ANY",
    "DFA",
    "EMPTY",
    "PDA",
    "STUCK",
    "Compiled",
    "Counted",
    "CounterMachine",
    "ExactnessLost",
    "Extraction",
    "Mealy",
    "Moore",
    "Outcome",
    "Recogniser",
    "Report",
    "Stacked",
    "Table",
    "Taped",
    "TuringMachine",
    "accepted_count",
    "compile",
    "complement",
    "complete",
    "distinguishing_word",
    "draw",
    "equivalent",
    "extract",
    "from_json",
    "from_text",
    "load",
    "load_model",
    "minimise",
    "product",
    "reachable",
    "regex",
    "save",
    "save_model",
    "to_json",
    "to_text",
    "word_text",
]
