"""Online RL: rounds of sampling, credit and updates, every token of them in the store."""
