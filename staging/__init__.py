"""The intermediate representation of staged programs and what is done to it.

To live here: the op table, the builder, the printer, the verifier, the reference interpreter, the
passes and the pipeline. This package imports neither `lantern` nor `backends`.
"""
