"""Know before you book: `scalingnote plan` compiles the train step ahead of time for a TPU slice,
with no TPU, and says whether it fits, what it sends, and how fast it can be at most.

Read order: topology → compile → hlo → matmuls, traffic, collectives → schedule → roofline →
make_plan → mesh_search → run_plan; dry_run stands alone. Nothing is loaded: weights are shapes,
batches come from the config. Not for time on real hardware: every figure of speed is a bound.
"""
