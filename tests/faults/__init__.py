"""The matrix of faults: one table of what can go wrong, and one test that makes each of it happen.

`table` lists the faults; `runs`, `engines` and `playbooks` say where each is made to happen, and `ending` what must
come of it. `python -m tests.faults` writes the table to docs/reliability.md.
"""
