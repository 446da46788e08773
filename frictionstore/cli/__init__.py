"""The command line: options and wiring."""
