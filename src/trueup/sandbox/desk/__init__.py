"""The parts of the helpdesk world: language, reading, gold, sources, annotators, battery."""
