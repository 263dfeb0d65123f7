"""Texts that are made of others: what stage 2 learns beside training queries, and disturbances."""
