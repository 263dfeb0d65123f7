"""Ways out: a trained tower in the forms that other software loads. Each form is a folder.

Not for going on with training: that is what checkpoints are for.
"""
