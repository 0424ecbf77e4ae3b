"""Networks from cells: batch-first ids or features in, built from scan, fold and unfold alone."""

from nextstate.networks.bidirectional import Bidirectional
from nextstate.networks.dynamic import DynamicScorer, Scorer
from nextstate.networks.encoder_decoder import Decoder, DecoderState, EncoderDecoder
from nextstate.networks.language_model import LanguageModel
from nextstate.networks.pooling import Concatenation, Ends, Last, Max, Mean
from nextstate.networks.sampling import Sampling
from nextstate.networks.sequence_classifier import SequenceClassifier

__all__ = [
    "Bidirectional",
    "Concatenation",
    "Decoder",
    "DecoderState",
    "DynamicScorer",
    "EncoderDecoder",
    "Ends",
    "LanguageModel",
    "Last",
    "Max",
    "Mean",
    "Sampling",
    "Scorer",
    "SequenceClassifier",
]
