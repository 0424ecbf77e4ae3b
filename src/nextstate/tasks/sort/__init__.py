"""Sorting: read a list of whole numbers, then write as many numbers in order.

The answer to a list of n numbers is the n numbers a sorter writes after reading them: the length of the
answer is that of the question, so no stop symbol is learned and none can be wrong.
"""

from nextstate.tasks.sort.batches import SortBatch, TrainingLists
from nextstate.tasks.sort.laws import LAWS, Law
from nextstate.tasks.sort.score import Entry, Score, Sorter, evaluate, score

__all__ = ["LAWS", "Entry", "Law", "Score", "SortBatch", "Sorter", "TrainingLists", "evaluate", "score"]
