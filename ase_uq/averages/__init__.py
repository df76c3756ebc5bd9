"""Averages over runs: one road from a log, or from a run that is going on, to a number with its error bars."""
