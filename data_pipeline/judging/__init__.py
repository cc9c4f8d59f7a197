"""What is wrong with recordings, and which of them are the same one."""

from data_pipeline.judging.duplicates import duplicates
from data_pipeline.judging.judge import SILENCE, Judge, Verdict
from data_pipeline.judging.truncated import truncated

__all__ = ["SILENCE", "Judge", "Verdict", "duplicates", "truncated"]
