"""`python -m fastv_runtime` is `fastv`."""

from fastv_runtime.cli.fastv import main

main()
