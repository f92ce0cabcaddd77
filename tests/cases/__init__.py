"""Smallest inputs of public reports, each with its source: what the judge says of them is held by tests/unit/test_cases_*.py.

A case is a module with HOST (or HOSTS, by name), built with tests/unit/build.py, and WANTED, SOURCE and EXPECT where
they are known. `python -m tests.cases [NAME...]` prints what the judge says.
"""
