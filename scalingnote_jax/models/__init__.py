"""The towers: two architectures in Flax NNX, pretrained weights into them, and their tokenizers.

Read order: params → ops, rope → stack, quantised → lora → decoder, bert → towers; then locate →
families → hf_folder, gguf_file → layouts → pretrained → storage; then tokenizer. Nothing here knows
of a mesh, a loss or a data set.
"""
