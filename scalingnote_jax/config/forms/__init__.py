"""How texts inside a config are written: durations, metrics, prompts, collections of a mixture."""
