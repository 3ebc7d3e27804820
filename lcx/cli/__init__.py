"""The command line: one thin module a command. Building the app imports nothing heavy."""
