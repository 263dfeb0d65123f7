"""The towers: two architectures in Flax NNX, pretrained weights into them, and their tokenizers.

Read order: params → ops → decoder, bert → towers; then locate → hf_folder, gguf_file → layouts → pretrained; tokenizer.
Nothing here knows of a mesh, a loss or a data set.
"""
