"""Which part of the offline preference set a refit learns from, one rule a file: the file's name is its ``kind``."""
