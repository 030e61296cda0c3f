"""What a policy may be optimised against, by kind; checks of replies lie in `rewards/verifiable`."""
