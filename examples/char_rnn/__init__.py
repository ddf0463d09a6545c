"""Recurrent networks that write a text letter by letter: `python -m examples.char_rnn`.

After Karpathy, *The unreasonable effectiveness of recurrent neural networks* (2015). Read in this
order: `text` (letters as numbers), `model` (three cells and their loop over time), `train`. The
text that comes along is the beginning of Shakespeare's *Coriolanus*.
"""
