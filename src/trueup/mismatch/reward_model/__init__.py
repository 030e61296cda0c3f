"""What is wrong with a reward model, from its scores of judged replies alone: one question a file, pure functions over one table."""
