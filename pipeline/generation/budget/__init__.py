"""How much may be generated: rollouts by task, turns by run."""
