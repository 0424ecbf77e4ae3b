"""Networks from cells: batch-first ids or features in, built from scan, fold and unfold alone."""

from nextstate.networks.encoder_decoder import Decoder, DecoderState, EncoderDecoder

__all__ = ["Decoder", "DecoderState", "EncoderDecoder"]
