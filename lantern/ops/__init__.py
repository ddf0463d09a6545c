"""The public operations: they convert, promote and check, and then perform primitives."""
