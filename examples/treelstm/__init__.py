"""A TreeLSTM on sentiment trees, or on arithmetic: `python -m examples.treelstm`.

Read in this order: `data` (trees as tables), `model` (the network, plain recursion), `train`.
"""
