"""The type checker that the import hook in conftest.py uses at run time.

As in PEP 484, an int is accepted for a float.
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
