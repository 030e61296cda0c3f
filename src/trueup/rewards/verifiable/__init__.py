"""Rewards that check a reply against what is known to be right; one file each."""
