"""Data sets, one file each, found by name.

A file `foo.py` in this folder with a function `load(config, split)` (see `sources.load`) makes
`data.name: foo` work. `PRETEXT_IS_TRAIN = True` says that the pretext learns from the training
images alone, which are then loaded once.
"""
