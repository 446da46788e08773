"""``python -m frictionstore``."""

from frictionstore.cli.main import main

main()
