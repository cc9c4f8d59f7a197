"""MIDI scores: reading them, the truth about a stretch of one, and rendering with a soundfont."""
