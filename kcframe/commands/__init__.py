"""What each command does; `kcframe.cli` only reads the command line."""
