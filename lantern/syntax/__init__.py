"""Python's own control flow over values of a program that is being written.

`ln.compile` runs a function on values that are not known yet; Python cannot branch on them. So the
function runs *rewritten* (`rewriting`, `expressions`): where Python would decide by truth, an
operator does (`operators`). It does what Python does where it can, and writes a branch or a loop
where it cannot (`branching`, `repeating`), by the functional forms' own machinery.
"""
