"""Audio files to stereo shards to numpy batches.

No other code of the project imports TensorFlow.
"""
