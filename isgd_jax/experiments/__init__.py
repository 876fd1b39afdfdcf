"""Experiments: data, models, a training loop, and the command line.

Needs the extra `experiments`: `pip install '.[experiments]'`. Nothing
in the core of the library imports from here.
"""
