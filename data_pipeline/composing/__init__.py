"""Composes music as MIDI scores with a description of each, from which clips are rendered.

`python -m data_pipeline.composing` writes the scores; `launch/composed_music.sh` fetches what it
needs and calls it. Every random choice comes from one `random.Random` of the seed and the score's
number. Time is counted in quarter notes throughout, and pitch in MIDI note numbers.
"""
