"""Text as ids: units (bytes, characters, BPE), corpora on disk, streams of chunks, decoding as it comes."""

from nextstate.tasks.text.corpus import Corpus, Part, prepare_corpus
from nextstate.tasks.text.sources import find_files, read_pieces
from nextstate.tasks.text.streams import TextChunk, TextStreams
from nextstate.tasks.text.units import BPE, Bytes, Characters, Unit, count_characters, unit_from_json

__all__ = [
    "BPE",
    "Bytes",
    "Characters",
    "Corpus",
    "Part",
    "TextChunk",
    "TextStreams",
    "Unit",
    "count_characters",
    "find_files",
    "prepare_corpus",
    "read_pieces",
    "unit_from_json",
]
