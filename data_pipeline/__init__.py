"""Audio files to stereo shards to numpy batches; the only code of the project that imports TensorFlow."""
