"""What the command line offers. A command is a module with two functions: `add_options` tells a
parser what may be given, `run` does it and returns the process's exit status."""
