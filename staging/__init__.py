"""The intermediate representation of staged programs and what is done to it.

Here live the grammar (`staging.ir`), the table of operations (`staging.ops`), the printed form
(`staging.text`), the verifier and the reference interpreter, which defines what every operation
means. To live here: the passes and the pipeline. This package imports neither `lantern` nor
`backends`.
"""
