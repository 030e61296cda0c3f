"""Train from human preferences, measure where reward model, policy and evaluation drift apart, and true the reward model up."""

__version__ = "0.1.0"
