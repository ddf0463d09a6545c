"""Matrix products.

    matmul ─► plan.product ─► plan.better ─┬─► own ─────┬─► loops ─┬─► pack    panels, widened
              what it is      (table)      ├─► joined ─┬┘          └─► micro   a tile in registers
                                           │           └─► few     few rows, nothing else packed
                                           │   with what follows, on blocks of sums
                                           └─► blas

`plan.plan` says how a product is cut: into parts for threads, blocks for the caches, and tiles. All
code is text of LLVM IR, written for the shapes of a program; equal functions are written once.
"""
