"""Pretext tasks: one file each, found by name.

A file `foo.py` in this folder with a frozen `Config(PretextConfig)` and a `Method(Pretext)` makes
`pretext: {name: foo}` work: its section of the YAML is typed by that `Config`, and the
conformance tests pick it up.
"""
