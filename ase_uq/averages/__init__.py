"""Averages over runs: one road from a log, or from a run that is going on, to a number with its error bars.

================  =================================================================================
`runs`            `of_run`, the road: logs or runs, names in; results out
`sources`         where values come from
`running`         the same over the first frames of a run, for a growing number of them
`plain`           of a model without members
`online`          during a run
`run_checks`      whether a run sampled what reweighting takes it to have sampled; `run_series`
`text`            results in words
================  =================================================================================
"""

from ase_uq.averages.runs import free_energy_of_run, of_run, reweight_log

__all__ = ["free_energy_of_run", "of_run", "reweight_log"]
