"""Sentiment of short texts: labelled tables and files, words and n-grams as ids, batches, measures."""
