"""This machine's own constants of the step-time model: small probes, then real training steps,
fitted and kept.

`steptime.local` reads what is kept and knows no torch. Here only the process of the probes does,
and the tracing at the end.
"""
