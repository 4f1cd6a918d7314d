"""`python -m fastv_runtime.cli` is `fastv`."""

from fastv_runtime.cli.fastv import main

main()
