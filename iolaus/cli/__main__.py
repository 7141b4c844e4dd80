"""`python -m iolaus.cli`: the `iolaus` command where its script is not on the path."""

from iolaus.cli import main

main()
