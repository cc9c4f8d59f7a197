"""Everyday names of the General MIDI instruments and of their families."""

import re

# family: {General MIDI name: everyday names}, in the order of the programs within a family.
NAMES = {
    "piano": {
        "Acoustic Grand Piano": ("piano", "grand piano", "acoustic piano"),
        "Bright Acoustic Piano": ("piano", "bright piano", "upright piano"),
        "Electric Grand Piano": ("electric grand piano", "electric grand"),
        "Honky-tonk Piano": ("honky-tonk piano", "saloon piano", "bar-room piano"),
        "Electric Piano 1": ("electric piano", "Rhodes piano", "e-piano"),
        "Electric Piano 2": ("electric piano", "FM electric piano", "e-piano"),
    },
    "keys": {
        "Harpsichord": ("harpsichord", "cembalo"),
        "Clavinet": ("clavinet", "clav"),
    },
    "mallets": {
        "Celesta": ("celesta", "celeste"),
        "Glockenspiel": ("glockenspiel", "orchestra bells"),
        "Music Box": ("music box", "musical box"),
        "Vibraphone": ("vibraphone", "vibes"),
        "Marimba": ("marimba", "wooden marimba"),
        "Xylophone": ("xylophone", "wooden xylophone"),
    },
    "bells": {
        "Tubular Bells": ("tubular bells", "orchestral chimes", "church bells"),
        "Tinkle Bell": ("tinkling bells", "little bells", "hand bells"),
        "Agogo": ("agogo bells", "agogo"),
    },
    "organ": {
        "Drawbar Organ": ("organ", "drawbar organ", "Hammond organ", "electric organ"),
        "Percussive Organ": ("organ", "jazz organ", "Hammond organ", "electric organ"),
        "Rock Organ": ("organ", "rock organ", "electric organ", "rotary organ"),
        "Church Organ": ("church organ", "pipe organ", "organ"),
        "Reed Organ": ("reed organ", "harmonium", "pump organ"),
    },
    "free reeds": {
        "Accordion": ("accordion", "squeezebox", "piano accordion"),
        "Harmonica": ("harmonica", "mouth organ", "blues harp"),
        "Tango Accordion": ("bandoneon", "tango accordion", "accordion"),
    },
    "guitar": {
        "Acoustic Guitar (nylon)": (
            "nylon guitar",
            "classical guitar",
            "acoustic guitar",
            "Spanish guitar",
            "nylon-string guitar",
        ),
        "Acoustic Guitar (steel)": ("steel-string guitar", "acoustic guitar", "folk guitar"),
        "Electric Guitar (jazz)": ("jazz guitar", "electric guitar", "mellow electric guitar"),
        "Electric Guitar (clean)": ("clean electric guitar", "clean guitar", "electric guitar"),
        "Electric Guitar (muted)": ("muted guitar", "palm-muted guitar", "muted electric guitar"),
        "Overdriven Guitar": ("overdriven guitar", "crunchy guitar", "electric guitar"),
        "Distortion Guitar": ("distorted guitar", "heavy guitar", "electric guitar", "fuzz guitar"),
        "Guitar Harmonics": ("guitar harmonics", "ringing guitar harmonics"),
    },
    "bass": {
        "Acoustic Bass": ("upright bass", "double bass", "acoustic bass", "bass", "standup bass"),
        "Electric Bass (finger)": ("electric bass", "bass guitar", "bass", "fingered bass"),
        "Electric Bass (pick)": ("picked bass", "electric bass", "bass guitar", "bass"),
        "Fretless Bass": ("fretless bass", "bass"),
        "Slap Bass 1": ("slap bass", "slapped bass", "bass"),
        "Slap Bass 2": ("slap bass", "slapped bass", "bass"),
        "Synth Bass 1": ("synth bass", "bass synth", "synthesizer bass", "bass"),
        "Synth Bass 2": ("synth bass", "bass synth", "synthesizer bass", "bass"),
    },
    "strings": {
        "Violin": ("violin",),
        "Viola": ("viola",),
        "Cello": ("cello",),
        "Contrabass": ("double bass", "contrabass", "bowed bass", "orchestral bass"),
        "Tremolo Strings": ("tremolo strings", "trembling strings", "strings"),
        "Pizzicato Strings": ("pizzicato strings", "plucked strings", "pizzicato"),
        "String Ensemble 1": ("strings", "string section", "string ensemble", "orchestral strings"),
        "String Ensemble 2": ("strings", "string section", "string orchestra"),
        "Synth Strings 1": ("synth strings", "string synth", "string machine"),
        "Synth Strings 2": ("synth strings", "string synth", "string machine"),
        "Fiddle": ("fiddle", "folk fiddle", "country fiddle"),
    },
    "plucked": {
        "Dulcimer": ("dulcimer", "hammered dulcimer"),
        "Orchestral Harp": ("harp", "concert harp", "orchestral harp"),
        "Sitar": ("sitar", "Indian sitar"),
        "Banjo": ("banjo", "bluegrass banjo"),
        "Shamisen": ("shamisen", "Japanese lute"),
        "Koto": ("koto", "Japanese zither"),
        "Kalimba": ("kalimba", "thumb piano", "mbira"),
    },
    "voices": {
        "Choir Aahs": ("choir", "choir aahs", "wordless choir", "voices"),
        "Voice Oohs": ("voice oohs", "oohs", "wordless voices"),
        "Synth Choir": ("synth choir", "synth voices", "synthetic choir"),
    },
    "brass": {
        "Trumpet": ("trumpet",),
        "Trombone": ("trombone",),
        "Tuba": ("tuba",),
        "Muted Trumpet": ("muted trumpet", "trumpet"),
        "French Horn": ("French horn", "horn"),
        "Brass Section": ("brass section", "brass", "horn section", "brass ensemble"),
        "Synth Brass 1": ("synth brass", "brass synth"),
        "Synth Brass 2": ("synth brass", "brass synth"),
    },
    "saxophone": {
        "Soprano Sax": ("soprano sax", "soprano saxophone", "sax", "saxophone"),
        "Alto Sax": ("alto sax", "alto saxophone", "sax", "saxophone"),
        "Tenor Sax": ("tenor sax", "tenor saxophone", "sax", "saxophone"),
        "Baritone Sax": ("baritone sax", "bari sax", "sax", "saxophone"),
    },
    "woodwind": {
        "Oboe": ("oboe",),
        "English Horn": ("English horn", "cor anglais"),
        "Bassoon": ("bassoon",),
        "Clarinet": ("clarinet",),
        "Piccolo": ("piccolo", "piccolo flute"),
        "Flute": ("flute",),
        "Recorder": ("recorder", "wooden recorder"),
        "Pan Flute": ("pan flute", "panpipes", "pan pipes"),
        "Blown Bottle": ("blown bottle", "bottle flute"),
        "Shakuhachi": ("shakuhachi", "bamboo flute"),
        "Whistle": ("whistle", "whistling"),
        "Ocarina": ("ocarina",),
        "Bagpipe": ("bagpipe", "bagpipes", "pipes"),
        "Shanai": ("shehnai", "shanai"),
    },
    "synth lead": {
        "Lead 1 (square)": ("square-wave lead", "square lead synth", "chiptune lead"),
        "Lead 2 (sawtooth)": ("saw lead", "saw lead synth", "sawtooth synth"),
        "Lead 3 (calliope)": ("calliope lead", "calliope synth"),
        "Lead 4 (chiff)": ("chiff lead", "breathy synth lead"),
        "Lead 5 (charang)": ("charang lead", "guitar-like synth lead"),
        "Lead 6 (voice)": ("voice lead", "voice-like synth lead"),
        "Lead 7 (fifths)": ("fifths lead", "parallel-fifths synth lead"),
        "Lead 8 (bass + lead)": ("fat synth lead", "thick lead synth"),
    },
    "synth pad": {
        "Pad 1 (new age)": ("new age pad", "shimmering synth pad"),
        "Pad 2 (warm)": ("warm pad", "warm synth pad"),
        "Pad 3 (polysynth)": ("polysynth", "polysynth pad"),
        "Pad 4 (choir)": ("choir pad", "vocal pad"),
        "Pad 5 (bowed)": ("bowed pad", "bowed-glass pad"),
        "Pad 6 (metallic)": ("metallic pad", "metallic synth pad"),
        "Pad 7 (halo)": ("halo pad", "glowing synth pad"),
        "Pad 8 (sweep)": ("sweeping pad", "sweep pad"),
    },
    "synth effects": {
        "FX 1 (rain)": ("rain synth", "raindrop synth"),
        "FX 2 (soundtrack)": ("soundtrack synth", "cinematic synth"),
        "FX 3 (crystal)": ("crystal synth", "glassy synth"),
        "FX 4 (atmosphere)": ("atmospheric synth", "atmosphere synth"),
        "FX 5 (brightness)": ("bright synth", "bright shimmering synth"),
        "FX 6 (goblins)": ("goblin synth", "eerie synth"),
        "FX 7 (echoes)": ("echoing synth", "echo synth"),
        "FX 8 (sci-fi)": ("sci-fi synth", "science-fiction synth"),
    },
    "tuned drums": {
        "Timpani": ("timpani", "kettledrums", "orchestral timpani"),
        "Steel Drums": ("steel drums", "steel pans", "steelpan"),
        "Taiko Drum": ("taiko drum", "taiko", "big Japanese drum"),
        "Melodic Tom": ("melodic toms", "tuned toms"),
        "Synth Drum": ("synth drum", "electronic tom"),
    },
    "effects": {
        "Orchestra Hit": ("orchestra hits", "orchestral stabs"),
        "Woodblock": ("woodblock", "wood block"),
        "Reverse Cymbal": ("reverse cymbal", "reversed cymbal"),
        "Guitar Fret Noise": ("guitar fret noise", "fret squeaks"),
        "Breath Noise": ("breath noise", "breathing sounds"),
        "Seashore": ("seashore sounds", "sea waves", "ocean waves"),
        "Bird Tweet": ("birdsong", "bird tweets"),
        "Telephone Ring": ("telephone ring", "ringing telephone"),
        "Helicopter": ("helicopter", "helicopter noise"),
        "Applause": ("applause", "clapping audience"),
        "Gunshot": ("gunshot", "gunshots"),
    },
}
# family: words for one instrument of it, words for several. Families that are not here have none.
FAMILIES = {
    "piano": (("keys", "keyboard"), ("keys", "pianos", "keyboards")),
    "keys": (("keys", "keyboard"), ("keys", "keyboards")),
    "mallets": (("mallets",), ("mallets", "mallet instruments")),
    "bells": (("bells",), ("bells",)),
    "organ": (("organ",), ("organs",)),
    "guitar": (("guitar",), ("guitars",)),
    "bass": (("bass",), ("bass",)),
    "strings": ((), ("strings", "bowed strings")),
    "voices": (("voices",), ("voices",)),
    "brass": (("brass",), ("brass", "brass instruments")),
    "saxophone": (("sax", "saxophone"), ("saxes", "saxophones")),
    "woodwind": (("woodwind",), ("woodwinds",)),
    "synth lead": (("synth", "synth lead", "lead synth"), ("synths", "synth leads")),
    "synth pad": (("synth", "pad", "synth pad"), ("pads", "synth pads", "synths")),
    "synth effects": (("synth", "synth effects"), ("synths", "synth effects")),
}
# Single programs that sound like several players.
_SECTIONS = ("strings", "string ensemble", "brass section")


def _plain(name: str) -> str:
    """Letters and digits alone, since programs write "Synth Strings 1" and "SynthStrings 1"."""
    return re.sub("[^a-z0-9]", "", name.lower())


_WORDS = {_plain(gm): words for names in NAMES.values() for gm, words in names.items()}
_FAMILY = {_plain(gm): family for family, names in NAMES.items() for gm in names}


def everyday(name: str) -> tuple[str, ...]:
    """What people call the instrument; an unknown one keeps its name."""
    return _WORDS.get(_plain(name), (name.lower(),))


def family(name: str) -> str:
    """The everyday family; "" for an instrument that is not in General MIDI."""
    return _FAMILY.get(_plain(name), "")


def family_words(name: str, count: int) -> tuple[str, ...]:
    """Words for the family of an instrument of which `count` instruments sound."""
    one, several = FAMILIES.get(family(name), ((), ()))
    section = any(part in name.lower() for part in _SECTIONS)
    return several if count > 1 or section else one


def plural(words: str) -> bool:
    """Whether a name such as "strings" takes the verb's plural."""
    return (words.endswith("s") and not words.endswith("ss")) or words == "timpani"
