"""Captions in varied everyday words, written from what is known of a clip.

The truth of a score is a dict with the fields of `writing.NAMEABLE`, all optional; `metadata`
writes captions from what tags and manifests say, and after the user's templates. Captions depend on
these fields and a key alone, so anyone can write them again from the stored metadata.
"""

from data_pipeline.captioning.metadata import composed
from data_pipeline.captioning.templates import Template, read_templates
from data_pipeline.captioning.writing import Written, captions, write

__all__ = ["Template", "Written", "captions", "composed", "read_templates", "write"]
