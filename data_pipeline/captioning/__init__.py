"""Captions in varied everyday words, written from what is known of a clip's score.

The truth of a clip is a dict with the fields of `writing.NAMEABLE`, all optional. Captions depend
on the truth and a key alone, so anyone can write them again from the stored metadata.
"""

from data_pipeline.captioning.writing import Written, captions, write

__all__ = ["Written", "captions", "write"]
