"""What the curves of a training run tell when nothing else is left: one question a file."""
