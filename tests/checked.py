"""The type checker that `conftest` puts on every function of `ops`: shapes, and an int where a float is meant is fine."""

from beartype import BeartypeConf, beartype

typed = beartype(conf=BeartypeConf(is_pep484_tower=True))
