"""The run-time checker of the import hook in conftest.py: an int may stand where a float is asked for, as PEP 484 says."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
