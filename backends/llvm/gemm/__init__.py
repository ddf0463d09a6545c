"""Matrix products.

matmul ─► plan.product ─► plan.better ─┬─► own ─► loops ─┬─► pack    panels, widened
                                       │                 └─► micro   a tile in registers
                                       └─► blas
"""
