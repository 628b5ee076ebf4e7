"""The fault kit: faults are planted, something is tried, and what came of it is judged.

A campaign (`faults.campaigns`) yields trials; a worker process (`faults.worker`) runs them one by one and
reports each before and after, so that a hang, a crash or a growing memory is known by its trial
(`faults.runner`). tests/faults runs each campaign for some seconds, scripts/fault_check.py for as long as
asked.
"""
