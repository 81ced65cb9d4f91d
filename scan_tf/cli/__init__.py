"""The program `scan-tf`: one file for each kind of command."""

from typing import TYPE_CHECKING

from scan_tf import lazy

if TYPE_CHECKING:
    from scan_tf.cli.arguments import add_run_arguments as add_run_arguments
    from scan_tf.cli.arguments import open_run as open_run
    from scan_tf.cli.arguments import parse as parse
    from scan_tf.cli.program import main as main
    from scan_tf.cli.program import stage_main as stage_main

__getattr__, __dir__, __all__ = lazy.names(
    __name__,
    {
        "add_run_arguments": "arguments",
        "main": "program",
        "open_run": "arguments",
        "parse": "arguments",
        "stage_main": "program",
    },
)
