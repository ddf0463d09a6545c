"""The primitives: each a NumPy kernel, a rule with one ``yield``, and how it acts on a batch.

Inside a rule, values are one level down: bare NumPy arrays where nothing else differentiates,
Tensors where something does. Only primitives and operators are applied to them.
"""
